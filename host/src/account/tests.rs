//! What the account promises.

use std::net::Ipv4Addr;

use super::*;
use crate::{
    breaker::Breakers,
    channel::Channels,
    config::{BreakerSettings, ChannelsSettings},
};

fn settled(model: &str, status: u16, usage: Usage, cost_usd: Option<f64>) -> Settled {
    Settled {
        id: "id".into(),
        peer: Ipv4Addr::LOCALHOST.into(),
        model: model.into(),
        provider: if model.is_empty() { "" } else { "p" }.into(),
        status,
        stream: false,
        usage,
        estimated: false,
        cost_usd,
        first_byte: Some(Duration::from_millis(70)),
        duration: Duration::from_millis(100),
        error: None,
    }
}

fn tokens(input: u64, output: u64) -> Usage {
    Usage { input: Some(input), output: Some(output), ..Usage::default() }
}

#[test]
fn a_cost_is_known_only_if_every_needed_price_is() {
    let priced = Model { input_cost: Some(3.0), output_cost: Some(15.0), ..Model::default() };
    let cached = Model { cached_input_cost: Some(0.3), cache_write_cost: Some(3.75), ..priced.clone() };
    let input_only = Model { output_cost: None, ..priced.clone() };
    let free = Model { input_cost: Some(0.0), output_cost: Some(0.0), ..Model::default() };
    let caching = Usage {
        cache_read: Some(500_000),
        cache_write: Some(200_000),
        cache_write_1h: Some(100_000),
        ..tokens(1_000_000, 0)
    };
    let check = |model: &Model, usage: Usage, expected: Option<f64>| {
        let cost = cost(model, &usage).map(nano);
        assert_eq!(cost, expected, "{usage:?}");
    };
    check(&priced, tokens(1_000_000, 100_000), Some(4.5));
    check(&priced, caching, Some(3.0));
    check(&cached, caching, Some(0.6 + 0.15 + 0.75 + 0.6));
    check(&input_only, tokens(1_000_000, 0), Some(3.0));
    check(&input_only, tokens(1_000_000, 1), None);
    check(&Model::default(), tokens(1, 1), None);
    check(&free, tokens(1, 1), Some(0.0));
    check(&priced, Usage::default(), None);
    check(&priced, Usage { cache_read: Some(9), ..tokens(4, 0) }, Some(0.000_027));
}

#[test]
fn usage_counts_by_model_and_in_total() {
    let account = Account::new();
    account.settle(&settled("kimi", 200, tokens(10, 5), Some(0.1)));
    account.settle(&settled("kimi", 200, tokens(1, 1), Some(0.2)));
    account.settle(&settled("kimi", 502, Usage::default(), None));
    account.settle(&settled("tiny", 200, tokens(2, 2), None));
    account.settle(&Settled { estimated: true, ..settled("tiny", 200, tokens(2, 2), None) });
    account.settle(&Settled {
        error: Some("stream_failed".into()),
        ..settled("kimi", 200, tokens(0, 0), Some(0.0))
    });
    account.settle(&settled("", 404, Usage::default(), None));
    let shown: serde_json::Value = serde_json::from_str(&account.usage()).expect("JSON");
    let check = |pointer: &str, expected: serde_json::Value| {
        assert_eq!(shown.pointer(pointer), Some(&expected), "{pointer}");
    };
    check("/by_model/kimi/requests", 4.into());
    check("/by_model/kimi/errors", 2.into());
    check("/by_model/kimi/total_tokens", 17.into());
    check("/by_model/kimi/cost_usd", 0.3.into());
    check("/by_model/tiny/cost_usd", serde_json::Value::Null);
    check("/by_model/tiny/unpriced_requests", 2.into());
    check("/by_model/tiny/estimated_requests", 1.into());
    check("/total/requests", 7.into());
    check("/total/errors", 3.into());
    check("/total/input_tokens", 15.into());
    check("/total/cost_usd", 0.3.into());
    assert_eq!(shown["by_model"].as_object().map(serde_json::Map::len), Some(2));
    let none: serde_json::Value = serde_json::from_str(&Account::new().usage()).expect("JSON");
    assert_eq!((&none["by_model"], &none["total"]["cost_usd"]), (&serde_json::json!({}), &0.0.into()));
}

#[test]
fn metrics_are_lines_that_prometheus_reads() {
    let account = Account::new();
    account.settle(&settled("we\"ird\\\n", 200, Usage { cache_read: Some(4), ..tokens(10, 5) }, Some(0.1)));
    account.settle(&settled("", 404, Usage::default(), None));
    let breakers = Breakers::new(BreakerSettings {
        failures: 1,
        window: Duration::from_secs(60),
        cooldown: Duration::from_secs(10),
        trials: 1,
    });
    breakers.admit("p/m").expect("closed").failure();
    let channels = Channels::new(&"p".into(), true, Vec::new(), &ChannelsSettings::default(), None);
    let text = account.metrics(&MetricsInput {
        version: "2.0.0",
        in_flight: 3,
        breakers: &breakers.states(),
        channels: &channels.rows(std::time::Instant::now()).collect::<Vec<_>>(),
        plugins: &[PluginMetrics {
            plugin: "echo",
            faults: 2,
            steps: 7,
            step_cpu: Duration::from_micros(1500),
            generations: [("serving", 1), ("draining", 0), ("retired", 3)],
            step_cpu_quantiles: &[(0.99, Duration::from_micros(20))],
        }],
    });
    for line in [
        r#"sigorest_requests_total{model="we\"ird\\\n",provider="p",status="200"} 1"#,
        r#"sigorest_requests_total{model="",provider="",status="404"} 1"#,
        r#"sigorest_tokens_total{model="we\"ird\\\n",provider="p",kind="cached_input"} 4"#,
        r#"sigorest_cost_usd_total{model="we\"ird\\\n",provider="p"} 0.1"#,
        r#"sigorest_time_to_first_byte_seconds_bucket{model="",provider="",le="0.05"} 0"#,
        r#"sigorest_time_to_first_byte_seconds_bucket{model="",provider="",le="0.1"} 1"#,
        r#"sigorest_time_to_first_byte_seconds_bucket{model="",provider="",le="+Inf"} 1"#,
        r#"sigorest_time_to_first_byte_seconds_sum{model="",provider=""} 0.07"#,
        "sigorest_in_flight 3",
        r#"sigorest_channel_state{provider="p",channel="default",state="no_key"} 1"#,
        r#"sigorest_channel_state{provider="p",channel="default",state="ok"} 0"#,
        r#"sigorest_channel_errors{provider="p",channel="default"} 0"#,
        r#"sigorest_breaker_state{target="p/m"} 2"#,
        r#"sigorest_plugin_faults_total{plugin="echo"} 2"#,
        r#"sigorest_plugin_generations{plugin="echo",state="retired"} 3"#,
        r#"sigorest_plugin_step_cpu_seconds{plugin="echo",quantile="0.99"} 0.00002"#,
        r#"sigorest_plugin_step_cpu_seconds_sum{plugin="echo"} 0.0015"#,
        r#"sigorest_plugin_step_cpu_seconds_count{plugin="echo"} 7"#,
        r#"sigorest_build_info{version="2.0.0"} 1"#,
        "sigorest_uptime_seconds 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    for line in samples {
        let value = line.rsplit(' ').next().unwrap_or_default();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}
