//! Many exchanges: the same result twice and on 64 threads, within bounded memory, in short steps.

use std::time::Duration;

use super::{Bench, Case, Driver, Found, Miss, Runner, calm, ensure, seen, wire};
use crate::testing::Answer;

const THREADS: usize = 64;

const EXCHANGES: usize = 10_000;

/// More than what a heap grows by without a leak. A plugin that keeps 1 KiB of each exchange is found.
const MAX_GROWTH_BYTES: u64 = 8 << 20;

/// A gateway logs slower steps, and stops using a plugin that goes on with them.
const MAX_STEP: Duration = Duration::from_millis(5);

pub(super) fn checks(runner: &mut Runner<'_>, bench: &Bench<'_>, good: &str) {
    let mut cases = bench.cases.clone();
    if bench.upstream {
        cases.push(bench.question(true).answered(Answer::new(503, "text/html", wire::HTML)));
    }
    // Long recordings would make ten thousand of them take minutes.
    let short: Vec<&Case> = cases.iter().filter(|case| case.body_of_first().len() < 64 << 10).collect();
    runner.check("exchanges: two runs equal", || twice(bench, &cases, good));
    runner.check("exchanges: 64 threads", || threads(bench, &short));
    runner.check("exchanges: memory of 10,000", || memory(bench, &short));
    runner.check("exchanges: step time", || times(bench, &short));
}

fn twice(bench: &Bench<'_>, cases: &[Case], good: &str) -> Found {
    let instance = (bench.create)(good.as_bytes()).map_err(|fault| fault.message)?;
    let other = Driver::around(instance, bench.manifest.clone());
    for case in cases {
        let outcomes = [&bench.driver, &bench.driver, &other]
            .map(|driver| seen(&bench.play_with(driver, case, &[case.body_of_first()])));
        ensure(outcomes[0] == outcomes[1] && outcomes[0] == outcomes[2], || {
            format!("{}: the same call comes out differently; use only the call's clock and seed", case.name)
        })?;
    }
    Ok(format!("{} calls, two instances", cases.len()))
}

fn threads(bench: &Bench<'_>, cases: &[&Case]) -> Found {
    let expected: Vec<_> = cases.iter().map(|case| seen(&bench.whole(case))).collect();
    let wrong = std::thread::scope(|scope| {
        let run = || {
            let rounds = (0..4).flat_map(|_| cases.iter().zip(&expected));
            let mut wrong = rounds.filter(|(case, expected)| seen(&bench.whole(case)) != **expected);
            wrong.next().map(|(case, _)| case.name.clone())
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
        threads.into_iter().find_map(|thread| thread.join().unwrap_or_else(|_| Some("a thread".into())))
    });
    ensure(wrong.is_none(), || format!("{} comes out differently", wrong.unwrap_or_default()))?;
    Ok(format!("{} exchanges", THREADS * 4 * cases.len()))
}

fn memory(bench: &Bench<'_>, cases: &[&Case]) -> Found {
    let run = |count: usize| {
        for case in cases.iter().cycle().take(count) {
            drop(bench.whole(case));
        }
    };
    run(EXCHANGES / 10);
    let mut growth = Vec::new();
    // Others in this process may grow it meanwhile; a leak goes on.
    for _ in 0..3 {
        let before =
            resident_bytes().ok_or_else(|| Miss::Skipped("/proc/self/status cannot be read".into()))?;
        run(EXCHANGES);
        let grown = resident_bytes().unwrap_or(0).saturating_sub(before);
        growth.push(grown);
        if grown <= MAX_GROWTH_BYTES {
            return Ok(format!("{} KiB more", grown >> 10));
        }
    }
    Err(Miss::Failed(format!(
        "it grows by {} KiB in {EXCHANGES} exchanges",
        growth.iter().min().unwrap_or(&0) >> 10
    )))
}

/// Memory of this process that is not swapped out.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

fn times(bench: &Bench<'_>, cases: &[&Case]) -> Found {
    let mut best = Duration::MAX;
    let mut told = String::new();
    // Steps do not wait, so their time is the processor's, unless the machine is busy with others: the
    // quietest of some rounds counts.
    for _ in 0..5 {
        let mut times = Vec::new();
        while times.len() < 2_000 {
            let before = times.len();
            for case in cases {
                times.extend(steps(bench, case)?);
            }
            if times.len() == before {
                return Err(Miss::Skipped("it takes no step".into()));
            }
        }
        times.sort();
        let share = |percent: usize| times[(times.len() - 1) * percent / 100];
        if share(99) < best {
            best = share(99);
            told = format!("p50 {:?}, p99 {:?} of {} steps", share(50), share(99), times.len());
        }
        if best <= MAX_STEP {
            return Ok(told);
        }
    }
    Err(Miss::Failed(format!("{told}: a step of over {MAX_STEP:?} keeps others waiting")))
}

fn steps(bench: &Bench<'_>, case: &Case) -> Result<Vec<Duration>, Miss> {
    let Ok(mut exchange) = bench.start(case) else { return Ok(Vec::new()) };
    if let Some(answer) = case.answers.first().filter(|_| exchange.is_waiting()) {
        exchange.reply(answer.status, &answer.heads(), &answer.body.chunks(1 << 10).collect::<Vec<_>>());
    }
    let times = std::mem::take(&mut exchange.times);
    calm(&exchange.finish(), "timed")?;
    Ok(times)
}
