//! Which channel is chosen, and what takes one out.

use secrecy::SecretString;

use super::*;
use crate::config::{ChannelSettings, PacingSettings};

fn made(keys: &[&str], settings: &ChannelsSettings, before: Option<&Channels>) -> Channels {
    let source = |(index, key): (usize, &&str)| Source {
        name: index.to_string(),
        variable: format!("P_API_KEY_{index}"),
        key: Some(SecretString::from(*key)),
    };
    let sources = keys.iter().enumerate().map(source).collect();
    Channels::new(&"p".into(), true, sources, settings, before)
}

fn three() -> (Channels, Instant) {
    (made(&["a", "b", "c"], &ChannelsSettings::default(), None), Instant::now())
}

const ANY: Ask<'static> = Ask { only: None, not: None, left: Duration::from_secs(100) };

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// The name of the channel that an attempt would use, and its wait.
fn chosen(channels: &Channels, now: Instant) -> Result<(String, Duration), Blocked> {
    channels.choose(now, ANY, |_| Ok(())).map(|chosen| (chosen.channel.name.to_string(), chosen.wait))
}

#[track_caller]
fn uses(channels: &Channels, now: Instant, name: &str) {
    assert_eq!(chosen(channels, now), Ok((name.into(), Duration::ZERO)));
}

fn fail(channels: &Channels, name: &str, fault: Fault, now: Instant) {
    let channel = channels.find(name).expect("a channel");
    channels.failed(channel, &fault, "text".into(), now);
}

fn limited(after: Duration) -> Fault {
    let retry_after_ms = u64::try_from(after.as_millis()).expect("short");
    Fault { retry_after_ms, ..Fault::new(FaultKind::RATE_LIMIT, "slow") }
}

#[test]
fn the_first_that_can_be_used_is_used_again_and_again() {
    let (channels, now) = three();
    for _ in 0..3 {
        uses(&channels, now, "0");
    }
    // Neither the caller's mistakes, the plugin's, nor the upstream's bad moments move anybody.
    for kind in [FaultKind::BAD_REQUEST, FaultKind::PANIC, FaultKind::UPSTREAM, FaultKind::TIMEOUT] {
        fail(&channels, "0", Fault::new(kind, "x").status(500), now);
        uses(&channels, now, "0");
    }
    let first = Arc::clone(&channels.list()[0]);
    let but = Ask { not: Some(&first), ..ANY };
    let other = channels.choose(now, but, |_| Ok(())).map(|chosen| chosen.channel.name.to_string());
    assert_eq!(other, Ok("1".into()));
    let open = channels.choose(now, Ask { only: Some(&first), ..ANY }, |_| Err::<(), _>(secs(3)));
    assert_eq!(open.err(), Some(Blocked::Open(secs(3))));
}

#[test]
fn a_rate_limit_pauses_one_channel_for_the_time_asked() {
    let (channels, now) = three();
    fail(&channels, "0", limited(secs(20)), now);
    fail(&channels, "1", limited(Duration::ZERO), now);
    uses(&channels, now, "2");
    uses(&channels, now + secs(1), "1");
    fail(&channels, "1", limited(secs(90)), now);
    fail(&channels, "2", limited(secs(30)), now);
    assert_eq!(chosen(&channels, now), Err(Blocked::Paused(secs(20))));
    uses(&channels, now + secs(20), "0");
    // A whole day is a mistake.
    fail(&channels, "2", limited(secs(86_400)), now);
    assert_eq!(channels.row(&channels.list()[2], now).state, "paused");
    assert_eq!(channels.row(&channels.list()[2], now + secs(3600)).state, "ok");
    // What concerns the model or the request is not the key's.
    let (channels, now) = three();
    for scope in [FaultScope::MODEL, FaultScope::REQUEST] {
        fail(&channels, "0", limited(secs(9)).scope(scope), now);
        uses(&channels, now, "0");
    }
    fail(&channels, "0", limited(secs(9)).scope(FaultScope::ACCOUNT), now);
    assert_eq!(chosen(&channels, now), Err(Blocked::Paused(secs(9))));
    // A single channel is not paused without a time.
    let single = made(&["a"], &ChannelsSettings::default(), None);
    fail(&single, "0", limited(Duration::ZERO), now);
    uses(&single, now, "0");
}

#[test]
fn a_refused_key_stays_out_until_it_is_changed_or_enabled() {
    let (channels, now) = three();
    let refused = || Fault::new(FaultKind::AUTH, "no").status(401);
    fail(&channels, "0", refused(), now);
    uses(&channels, now + secs(100_000), "1");
    fail(&channels, "0", limited(secs(5)), now);
    uses(&channels, now + secs(6), "1");
    let same = made(&["a", "b"], &ChannelsSettings::default(), Some(&channels));
    uses(&same, now, "1");
    let changed = made(&["new", "b"], &ChannelsSettings::default(), Some(&channels));
    uses(&changed, now, "0");
    channels.revive(&channels.list()[0]);
    uses(&channels, now, "0");
    fail(&channels, "0", refused().scope(FaultScope::MODEL), now);
    uses(&channels, now, "0");
    // Where no other channel is left, a single attempt finds out now and then.
    for name in ["0", "1", "2"] {
        fail(&channels, name, refused(), now);
    }
    let auth = Err(Blocked::Auth { variable: "P_API_KEY_0".into(), channel: "0".into() });
    assert_eq!(chosen(&channels, now + AUTH_REST - secs(1)), auth);
    let later = now + AUTH_REST;
    for name in ["0", "1", "2"] {
        uses(&channels, later, name);
    }
    assert_eq!(chosen(&channels, later), auth);
    channels.succeeded(&channels.list()[1]);
    uses(&channels, later, "1");
}

#[test]
fn an_account_without_money_is_left_alone_with_all_its_channels() {
    let (channels, now) = three();
    fail(&channels, "1", Fault::new(FaultKind::QUOTA, "no"), now);
    assert_eq!(chosen(&channels, now), Err(Blocked::Quota(QUOTA_REST)));
    let again = made(&["a", "b", "c"], &ChannelsSettings::default(), Some(&channels));
    assert_eq!(chosen(&again, now), Err(Blocked::Quota(QUOTA_REST)));
    uses(&made(&["d"], &ChannelsSettings::default(), Some(&channels)), now, "0");
    uses(&channels, now + QUOTA_REST, "0");
    fail(&channels, "0", Fault::new(FaultKind::QUOTA, "no").scope(FaultScope::CHANNEL), now);
    uses(&channels, now, "1");
}

#[test]
fn what_people_switch_goes_before_everything() {
    let settings = ChannelsSettings {
        named: [("0".to_owned(), ChannelSettings { enabled: Some(false), ..Default::default() })].into(),
        ..Default::default()
    };
    let (channels, now) = (made(&["a", "b"], &settings, None), Instant::now());
    uses(&channels, now, "1");
    let dir = tempfile::tempdir().expect("a directory");
    let switch = |name: &str, on| Switches::set(dir.path(), "p", name, on).expect("stored");
    switch("0", true);
    channels.switch(&switch("1", false));
    uses(&channels, now, "0");
    channels.switch(&switch("0", false));
    assert_eq!(chosen(&channels, now), Err(Blocked::Disabled("0".into())));
    fail(&channels, "0", Fault::new(FaultKind::AUTH, "no"), now);
    assert_eq!(channels.row(&channels.list()[0], now).state, "disabled");
    let reloaded = made(&["a", "b"], &settings, Some(&channels));
    reloaded.switch(&Switches::read(dir.path()).expect("a file"));
    assert!(reloaded.list().iter().all(|channel| !channel.enabled()));
}

#[test]
fn a_pace_is_kept_with_a_bounded_wait_then_the_next_channel_takes_over() {
    let pacing = PacingSettings { min_interval: Some(secs(2)), max_wait: Some(Duration::from_millis(2500)) };
    let settings = ChannelsSettings { pacing, ..Default::default() };
    let (channels, now) = (made(&["a", "b"], &settings, None), Instant::now());
    let next = || chosen(&channels, now);
    let at = |name: &str, wait| Ok((name.to_owned(), secs(wait)));
    assert_eq!([next(), next(), next(), next()], [at("0", 0), at("0", 2), at("1", 0), at("1", 2)]);
    assert_eq!(next(), Err(Blocked::Paced(secs(4))));
    let short = channels.choose(now + secs(3), Ask { left: Duration::from_millis(500), ..ANY }, |_| Ok(()));
    assert_eq!(short.map(|chosen| chosen.wait).err(), Some(Blocked::Paced(secs(1))));
    assert_eq!(chosen(&channels, now + secs(4)), at("0", 0));
}

#[test]
fn rows_say_how_a_channel_stands_and_never_its_key() {
    let (channels, now) = three();
    fail(&channels, "0", Fault::new(FaultKind::AUTH, "no"), now);
    let rows: Vec<Row> = channels.rows(now).collect();
    let shown = serde_json::to_value(&rows[0]).expect("JSON");
    for (member, value) in [
        ("provider", serde_json::json!("p")),
        ("name", "0".into()),
        ("full_name", "p-0".into()),
        ("state", "auth".into()),
        ("healthy", false.into()),
        ("active", true.into()),
        ("consecutive_errors", 1.into()),
        ("last_error", "text".into()),
    ] {
        assert_eq!(shown[member], value, "{member}");
    }
    assert!(rows[1].healthy && rows[1].paused_until.is_none());
    assert_eq!(channels.find("p-2").map(|channel| &*channel.name), Some("2"));
    let keyless = Channels::new(&"q".into(), true, Vec::new(), &ChannelsSettings::default(), None);
    assert_eq!((keyless.rows(now).next().map(|row| row.state), keyless.first_key()), (Some("no_key"), None));
}
