//! A panic in a plugin is a fault of that one request, wherever it happens.

use provider_api::{
    FaultKind,
    loader::open,
    testing::{Driver, Outcome},
};

use crate::{load::driver, panicky};

fn panicking_in(place: &str) -> Driver {
    driver(&panicky(), &format!("{{\"panic\":\"{place}\"}}"))
}

fn stream(driver: &Driver) -> Outcome {
    let exchange = driver.chat("panicky", "{}", true, &[]).expect("begins");
    exchange.answer(200, &[("content-type", "text/event-stream")], &[b"data: 1\n\ndata: [DONE]\n\n"])
}

#[track_caller]
fn is_panic(fault: Option<provider_api::Fault>, place: &str) {
    let fault = fault.expect("a fault");
    assert_eq!(fault.kind, FaultKind::PANIC, "{fault}");
    let text = format!("asked to panic in {place} at ");
    assert!(fault.message.starts_with(&text) && fault.message.contains("lib.rs:"), "{fault}");
}

#[test]
fn in_new() {
    let module = open(&panicky()).expect("opens");
    is_panic(module.create(b"{\"panic\":\"new\"}", Box::new(|_, _| ())).err(), "new");
    module.create(b"{}", Box::new(|_, _| ())).expect("the next one works");
}

#[test]
fn in_request() {
    let driver = panicking_in("request");
    for _ in 0..2 {
        is_panic(driver.chat("panicky", "{}", false, &[]).err(), "request");
    }
}

#[test]
fn in_response() {
    let driver = panicking_in("response");
    for _ in 0..2 {
        let exchange = driver.chat("panicky", "{}", false, &[]).expect("begins");
        is_panic(exchange.answer(200, &[], &[b"{}"]).fault, "response");
    }
}

#[test]
fn in_event() {
    let driver = panicking_in("event");
    for _ in 0..2 {
        is_panic(stream(&driver).fault, "event");
    }
}

#[test]
fn in_drop() {
    let driver = panicking_in("drop");
    assert_eq!(stream(&driver).text(), "data: 1\n\ndata: [DONE]\n\n");
    drop(driver);
    assert_eq!(stream(&panicking_in("")).fault, None);
}
