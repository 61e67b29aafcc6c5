//! Where a provider's code runs: in this process, or in a worker process of its own.
//!
//! The relay steps an exchange without knowing where it is. Here, a step is a call that is ready at once
//! and allocates nothing; apart, it is one message there and one back.

use std::time::{Duration, Instant};

use provider_api::{
    Fault,
    exchange::{self, Begin, Input, Instance, Sink},
};

/// A configured instance of a plugin.
pub enum Runner {
    /// In this process.
    Here(Instance),
}

impl Runner {
    /// Begins an exchange.
    ///
    /// # Errors
    /// What the provider says, a panic included.
    pub fn begin(&self, begin: &Begin<'_>) -> Result<Exchange, Fault> {
        match self {
            Self::Here(instance) => Ok(Exchange::Here(instance.begin(begin)?)),
        }
    }
}

/// One run of a provider's state machine.
pub enum Exchange {
    /// In this process.
    Here(exchange::Exchange),
}

impl Exchange {
    /// Tells the provider what happened; results go to `sink`. With it comes the time that the step
    /// itself took.
    ///
    /// # Errors
    /// What the provider says, a panic included.
    pub async fn step(&mut self, input: Input<'_>, sink: &mut impl Sink) -> (Duration, Result<(), Fault>) {
        match self {
            Self::Here(exchange) => {
                let began = Instant::now();
                let stepped = exchange.step(input, sink);
                (began.elapsed(), stepped)
            }
        }
    }
}
