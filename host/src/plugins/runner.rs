//! Where a provider's code runs: in this process, or in a worker process of its own.
//!
//! The relay steps an exchange without knowing where it is. Here, a step is a call that is ready at once
//! and allocates nothing; apart, it is one message there and one back.

use std::time::Duration;

use provider_api::{
    Fault,
    exchange::{self, Begin, Input, Instance, Sink},
};

use super::worker::{self, Worker};

/// A configured instance of a plugin.
pub enum Runner {
    /// In this process.
    Here(Instance),
    /// In a process of its own.
    Apart(Worker),
}

impl Runner {
    /// Begins an exchange.
    ///
    /// # Errors
    /// What the provider says, a panic included; of one in a worker, the first step says it.
    pub fn begin(&self, begin: &Begin<'_>) -> Result<Exchange, Fault> {
        match self {
            Self::Here(instance) => Ok(Exchange::Here(instance.begin(begin)?)),
            Self::Apart(worker) => Ok(Exchange::Apart(worker.begin(begin))),
        }
    }

    /// The worker, if it runs in one.
    pub fn worker(&self) -> Option<&Worker> {
        match self {
            Self::Here(_) => None,
            Self::Apart(worker) => Some(worker),
        }
    }
}

/// One run of a provider's state machine.
pub enum Exchange {
    /// In this process.
    Here(exchange::Exchange),
    /// In a worker.
    Apart(worker::Exchange),
}

impl Exchange {
    /// Tells the provider what happened; results go to `sink`. Of a step in a worker, the processor time
    /// that it used comes with it. Not cancel-safe: whoever gives up drops the exchange.
    ///
    /// # Errors
    /// What the provider says, a panic included, or that its worker ended.
    pub async fn step(
        &mut self,
        input: Input<'_>,
        sink: &mut impl Sink,
    ) -> (Option<Duration>, Result<(), Fault>) {
        match self {
            Self::Here(exchange) => (None, exchange.step(input, sink)),
            Self::Apart(exchange) => {
                let (used, stepped) = exchange.step(&input, sink).await;
                (Some(used), stepped)
            }
        }
    }

    /// Whether it failed because its worker ended, which may be another exchange's doing.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Apart(exchange) if exchange.is_lost())
    }
}
