//! A provider's server that does with each request what the request's text says.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::site::Tally;
use crate::harness::{Answer, Recorded, Upstream, chunk, completion, usage_chunk};

pub fn start(tally: &Arc<Tally>) -> Upstream {
    let tally = Arc::clone(tally);
    Upstream::forgetful(move |request, answer| misbehave(request, answer, &tally))
}

/// The last thing that the user says, and the thing before.
fn said(body: &Value) -> (String, String) {
    let empty = Vec::new();
    let messages = body["messages"].as_array().unwrap_or(&empty).iter();
    let mut said = messages.filter(|message| message["role"] == "user").map(|message| &message["content"]);
    let last = said.next_back().and_then(Value::as_str).unwrap_or_default();
    (last.to_owned(), said.next_back().and_then(Value::as_str).unwrap_or("nothing").to_owned())
}

fn misbehave(request: &Recorded, answer: &mut Answer<'_>, tally: &Tally) {
    let body = request.json();
    let (text, before) = said(&body);
    let (fault, stream) = (text.split(' ').next().unwrap_or(""), body["stream"] == true);
    let error = |kind: &str| json!({"error": {"message": "no", "type": kind}});
    match fault {
        "reset" => tally.fault("upstream resets"),
        "close" => tally.fault("upstream closes"),
        "error" => tally.fault("upstream refuses"),
        "busy" => tally.fault("upstream is overloaded"),
        "html" => tally.fault("upstream sends a page"),
        "hang" => tally.fault("upstream says nothing"),
        "garbage" => tally.fault("upstream sends garbage"),
        "cut" if stream => tally.fault("upstream cuts a stream"),
        "late-error" if stream => tally.fault("upstream fails inside a stream"),
        _ => {}
    }
    match fault {
        "reset" => return answer.reset(),
        "close" => return answer.close(),
        "error" => return answer.json(400, &error("invalid_request_error")),
        "busy" => return answer.json(503, &error("server_error")),
        "html" => return answer.whole(200, &[("content-type", "text/html")], b"<html>"),
        "hang" => {
            answer.wait_for_hang_up();
            return;
        }
        "garbage" if !stream => return answer.whole(200, &[("content-type", "application/json")], b"{]"),
        _ => {}
    }
    let told = if fault == "session" { format!("{text}|{before}") } else { text.clone() };
    if !stream {
        return answer.json(200, &completion(&told));
    }
    answer.stream();
    for word in told.split_inclusive(' ') {
        answer.event(&chunk(json!({"content": word}), None));
        if fault == "slow" {
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
    match fault {
        "cut" => answer.close(),
        "garbage" => answer.piece("data: {]\n\n").end(),
        "late-error" => answer.event(&json!({"error": {"message": "late"}})).end(),
        "torrent" => {
            let event = chunk(json!({"content": "x".repeat(8000)}), None);
            while answer.alive() {
                answer.event(&event);
            }
        }
        _ => {
            answer.event(&chunk(json!({}), Some("stop"))).event(&usage_chunk());
            answer.done();
        }
    }
}
