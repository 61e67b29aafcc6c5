//! Mutates seeds, keeps inputs with outcomes that were not seen before, and counts. Without the coverage of
//! a nightly toolchain, the outcome (which error, how many parts) is what guides it.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

/// Largest input.
const MAX_BYTES: usize = 4 << 10;

/// Most inputs that are kept.
const MAX_CORPUS: usize = 2000;

/// One target's state.
pub struct Fuzzer {
    name: String,
    state: u64,
    corpus: Vec<Vec<u8>>,
    words: &'static [&'static str],
    seen: HashSet<u64>,
}

impl Fuzzer {
    /// Starts from these inputs; `words` are put in now and then. The same `state` makes the same inputs.
    pub fn new(name: &str, seeds: Vec<Vec<u8>>, words: &'static [&'static str], state: u64) -> Self {
        let state = state | 1;
        Self { name: name.to_owned(), state, corpus: seeds, words, seen: HashSet::new() }
    }

    /// How many different outcomes there were.
    pub fn outcomes(&self) -> usize {
        self.seen.len()
    }

    /// Runs for this long; tells the executions.
    ///
    /// # Panics
    /// If the target does, with the input in Rust's notation.
    pub fn run(&mut self, budget: Duration, check: fn(&[u8]) -> u64) -> u64 {
        let end = Instant::now() + budget;
        let mut executions = 0;
        for seed in self.corpus.clone() {
            self.execute(seed, check);
            executions += 1;
        }
        while Instant::now() < end {
            let input = self.mutated();
            self.execute(input, check);
            executions += 1;
        }
        executions
    }

    fn execute(&mut self, input: Vec<u8>, check: fn(&[u8]) -> u64) {
        match catch_unwind(AssertUnwindSafe(|| check(&input))) {
            Ok(outcome) => {
                if self.seen.insert(outcome) && self.corpus.len() < MAX_CORPUS {
                    self.corpus.push(input);
                }
            }
            Err(_) => panic!("{}: fails with b\"{}\"", self.name, input.escape_ascii()),
        }
    }

    /// Xorshift64*: fast, and good enough to choose.
    fn random(&mut self, below: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below.max(1)
    }

    fn mutated(&mut self) -> Vec<u8> {
        let from = self.random(self.corpus.len());
        let mut input = self.corpus[from].clone();
        for _ in 0..=self.random(4) {
            self.mutate(&mut input);
        }
        input.truncate(MAX_BYTES);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.random(input.len() + 1);
        let end = (at + self.random(64)).min(input.len());
        match self.random(9) {
            0 if at < input.len() => input[at] ^= 1 << self.random(8),
            1 if at < input.len() => input[at] = self.random(256) as u8,
            2 => input.insert(at, b"\"{}[],:\\\n\r \x00\xff0-*!#/.@"[self.random(21)]),
            3 => drop(input.drain(at..end)),
            4 => {
                let part = input[at..end].to_vec();
                let to = self.random(input.len() + 1);
                input.splice(to..to, part);
            }
            5 => {
                let other = self.random(self.corpus.len());
                let other = &self.corpus[other];
                let from = at.min(other.len());
                let part = other[from..(from + 64).min(other.len())].to_vec();
                input.splice(at..at, part);
            }
            6 => input.truncate(at),
            7 => {
                let times = 1 << self.random(8);
                let part = input[at..end].repeat(times);
                input.splice(at..at, part);
            }
            _ => {
                let word = self.random(self.words.len());
                let word = self.words.get(word).unwrap_or(&"");
                input.splice(at..end, word.bytes());
            }
        }
    }
}
