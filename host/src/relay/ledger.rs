//! The entry of one request in the books: opened when it arrives, settled exactly once, by `Drop` at the
//! latest.

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Instant};

use provider_api::Usage;

use crate::{
    account::{self, Account, Settled},
    catalog::Entry,
};

/// Bytes of a request for about one token, where nobody counted.
const BYTES_PER_TOKEN: u64 = 4;

/// Status in the books of a request whose caller left (nginx's number for it).
const CALLER_LEFT: u16 = 499;

/// The entry of one request.
pub struct Ledger {
    account: Arc<Account>,
    settled: Settled,
    entry: Option<Arc<Entry>>,
    arrived: Instant,
    /// Tokens of the prompt if nobody counts them.
    input_estimate: u64,
    chunks: u64,
    /// Whether an upstream was at work: then tokens were used, counted or not.
    working: bool,
    open: bool,
}

impl Ledger {
    /// Opens the entry.
    pub fn open(account: &Arc<Account>, id: Arc<str>, peer: IpAddr) -> Self {
        let settled = Settled {
            id,
            peer,
            model: "".into(),
            provider: "".into(),
            status: CALLER_LEFT,
            stream: false,
            usage: Usage::default(),
            estimated: false,
            cost_usd: None,
            first_byte: None,
            duration: std::time::Duration::ZERO,
            error: None,
        };
        Self {
            account: Arc::clone(account),
            settled,
            entry: None,
            arrived: Instant::now(),
            input_estimate: 0,
            chunks: 0,
            working: false,
            open: true,
        }
    }

    /// The request's id.
    pub fn id(&self) -> &Arc<str> {
        &self.settled.id
    }

    /// Notes the model, and the size of the request for it.
    pub fn model(&mut self, entry: &Arc<Entry>, stream: bool, body_bytes: usize) {
        self.settled.model = Arc::clone(&entry.name);
        self.settled.provider = Arc::clone(&entry.provider);
        self.settled.stream = stream;
        self.input_estimate = body_bytes as u64 / BYTES_PER_TOKEN;
        self.entry = Some(Arc::clone(entry));
    }

    /// Notes that an upstream answers: from now on tokens are being used.
    pub fn working(&mut self) {
        self.working = true;
    }

    /// Notes the first byte of the answer.
    pub fn first_byte(&mut self) {
        self.settled.first_byte = Some(self.arrived.elapsed());
    }

    /// Notes what was used so far.
    pub fn usage(&mut self, usage: Usage, chunks: u64) {
        self.settled.usage.update(usage);
        self.chunks = chunks;
    }

    /// The answer was given whole.
    pub fn complete(&mut self) {
        self.settle(200, None);
    }

    /// It ended with this status and code; nothing is booked for it.
    pub fn refused(&mut self, status: u16, code: Option<Cow<'static, str>>) {
        self.working = false;
        self.settle(status, code.or(Some(Cow::Borrowed("error"))));
    }

    /// The stream broke off: the caller has a 200 and an error event.
    pub fn fail(&mut self, code: Option<Cow<'static, str>>) {
        self.settle(200, code.or(Some(Cow::Borrowed("stream_failed"))));
    }

    fn settle(&mut self, status: u16, error: Option<Cow<'static, str>>) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        let settled = &mut self.settled;
        settled.status = status;
        settled.error = error;
        settled.duration = self.arrived.elapsed();
        if self.working {
            let usage = &mut settled.usage;
            // Embeddings have no output tokens: their total is the prompt.
            let chat = self.entry.as_ref().is_some_and(|entry| entry.mode == provider_api::model::Mode::Chat);
            if usage.input.is_none() || (usage.output.is_none() && chat) {
                settled.estimated = true;
                usage.input = usage.input.or(Some(self.input_estimate));
                usage.output = usage.output.or(Some(self.chunks));
            }
            settled.cost_usd =
                self.entry.as_ref().and_then(|entry| account::cost(&entry.model, &settled.usage));
        }
        self.account.settle(settled);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.settle(CALLER_LEFT, Some(Cow::Borrowed("caller_left")));
    }
}
