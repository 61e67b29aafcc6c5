//! Steps of a plugin, how they are counted and how they end. To a worker process, what one read brought
//! goes in one message.

use std::time::Duration;

use bytes::Bytes;
use provider_api::{Fault, FaultKind, exchange::Input};

use super::Run;
use crate::{
    plugins::{Provider, meter::Clock, runner::Exchange},
    upstream::{Response, TransportError},
};

impl Run {
    /// Takes one step. Not cancel-safe, see [`Exchange::step`].
    pub(super) async fn step(&mut self, input: Input<'_>) -> Result<(), Fault> {
        if let Input::Body { data, .. } = &input {
            self.fed = self.fed.saturating_add(data.len());
        }
        let clock = Clock::start();
        let (used, stepped) = match &mut self.trace {
            None => self.exchange.step(input, &mut self.outbox).await,
            Some(trace) => {
                trace.told(&input);
                let call_body = self.outbox.call_body.clone();
                let mut tee = trace.tee(&mut self.outbox, &call_body);
                let (used, stepped) = self.exchange.step(input, &mut tee).await;
                trace.ended(&stepped);
                (used, stepped)
            }
        };
        match used {
            None => clock.stop(&self.outbox.provider.generation, self.fed),
            Some(used) => self.count_apart(used),
        }
        self.stepped(stepped)
    }

    /// How a step ended.
    fn stepped(&mut self, stepped: Result<(), Fault>) -> Result<(), Fault> {
        // The end of a worker is not counted by each who was on it.
        let lost = self.exchange.is_lost();
        let stepped = stepped.inspect_err(|fault| {
            if !lost {
                count(&self.outbox.provider, fault);
            }
        });
        match self.outbox.refused.take() {
            Some(fault) => Err(fault),
            None => stepped,
        }
    }

    /// Shows the plugin the head of an answer.
    pub(super) async fn head(&mut self, id: u64, response: &Response) -> Result<(), Fault> {
        let headers: Vec<(&str, &[u8])> = response.headers().collect();
        self.step(Input::Head { id, status: response.status, headers: &headers }).await
    }

    /// Tells the plugin that a request failed below HTTP.
    pub(super) async fn transport_failed(&mut self, id: u64, error: &TransportError) -> Result<(), Fault> {
        self.step(Input::TransportError { id, text: &error.to_string() }).await
    }

    /// The plugin waits for something that nobody will bring.
    pub(super) fn stuck(&self) -> Fault {
        let plugin = &self.outbox.provider.generation.id;
        let text = format!("plugin `{plugin}` neither answered nor asked for anything");
        let fault = Fault::new(FaultKind::INTERNAL, text);
        self.outbox.provider.count_fault(&fault);
        fault
    }

    /// Whether events are gathered for [`Run::step_all`].
    pub(super) fn gathers(&self) -> bool {
        matches!(self.exchange, Exchange::Apart(_))
    }

    /// Takes a step for each event, with one message to the worker and one back.
    pub(super) async fn step_all(&mut self, id: u64, events: &mut Vec<Bytes>) -> Result<(), Fault> {
        let Exchange::Apart(exchange) = &mut self.exchange else { return Ok(()) };
        if events.is_empty() {
            return Ok(());
        }
        let mut steps = exchange.bodies(id, events).await?;
        for event in events.drain(..) {
            if self.outbox.finished {
                break;
            }
            self.fed = self.fed.saturating_add(event.len());
            self.outbox.current = Some(event.clone());
            let (used, stepped) = match &mut self.trace {
                None => steps.replay(&mut self.outbox),
                Some(trace) => {
                    trace.told(&Input::Body { id, data: &event });
                    let (used, stepped) = steps.replay(&mut trace.tee(&mut self.outbox, &[]));
                    trace.ended(&stepped);
                    (used, stepped)
                }
            };
            self.outbox.current = None;
            self.count_apart(used);
            self.stepped(stepped)?;
        }
        Ok(())
    }

    /// Counts a step of which the worker says how much processor time it used.
    pub(super) fn count_apart(&self, used: Duration) {
        let generation = &self.outbox.provider.generation;
        generation.meter.step(&generation.id, self.fed, used, || used);
    }
}

/// Faults that are the plugin's own rather than its upstream's.
pub(super) fn count(provider: &Provider, fault: &Fault) {
    if matches!(fault.kind, FaultKind::PANIC | FaultKind::INTERNAL) {
        provider.count_fault(fault);
    }
}
