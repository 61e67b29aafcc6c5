//! What one side writes, the other one reads; and nothing that a worker says does harm.

use super::*;

/// Says what it was told.
#[derive(Default)]
struct Told(Vec<String>);

impl Sink for Told {
    fn http(&mut self, asked: Asked<'_>) -> u64 {
        let headers: Vec<_> = asked.headers().collect();
        let body: Vec<_> = asked.body().collect();
        self.0.push(format!("http {} {} {headers:?} {body:?}", asked.method, asked.url));
        1
    }

    fn emit(&mut self, chunk: &[u8]) -> bool {
        self.0.push(format!("emit {chunk:?}"));
        true
    }

    fn pass(&mut self) -> bool {
        self.0.push("pass".into());
        true
    }

    fn usage(&mut self, usage: Usage) {
        self.0.push(format!("{usage:?}"));
    }

    fn sleep(&mut self, ms: u64) -> u64 {
        self.0.push(format!("sleep {ms}"));
        2
    }

    fn done(&mut self, body: &[u8]) -> bool {
        self.0.push(format!("done {body:?}"));
        true
    }

    fn dropped(&mut self, field: &str) {
        self.0.push(format!("dropped {field}"));
    }
}

fn hand_out(sink: &mut impl Sink) -> [u64; 2] {
    let body = [Some(BodyPart::Literal(b"{")), Some(BodyPart::CallBody { offset: 1, len: u64::MAX }), None];
    let first = Asked::lend(("POST", "https://a/b"), &[("x", b"\xff"), ("y", b"")], &body, |a| sink.http(a));
    sink.dropped("top_k");
    sink.usage(Usage { input: Some(0), cache_read: Some(u64::MAX), ..Usage::default() });
    let second = sink.sleep(5);
    sink.emit(b"");
    sink.pass();
    sink.done(b"done");
    [first, second]
}

fn recorded(hand_out: impl FnOnce(&mut Recorder<'_>)) -> Writer {
    let (mut writer, mut last_id, mut done) = (Writer::default(), 0, false);
    hand_out(&mut Recorder { writer: &mut writer, last_id: &mut last_id, done: &mut done, over: false });
    writer
}

#[test]
fn what_a_step_hands_out_arrives_as_it_was() {
    let mut ids = [0, 0];
    let mut writer = recorded(|recorder| ids = hand_out(recorder));
    assert_eq!(ids, [1, 2]);
    let fault = Fault::new(FaultKind::RATE_LIMIT, "später").status(429).detail("a", None, Some("b"));
    writer.stepped(Duration::from_nanos(7), &Err(fault.clone()));
    writer.stepped(Duration::from_nanos(8), &Ok(()));
    let (mut here, mut there) = (Told::default(), Told::default());
    hand_out(&mut here);
    let mut reader = Reader(&writer.0);
    assert_eq!(reader.replay(&mut there), Some((Duration::from_nanos(7), Err(fault))));
    assert_eq!(here.0, there.0);
    assert_eq!(reader.replay(&mut there), Some((Duration::from_nanos(8), Ok(()))));
    assert_eq!(reader.replay(&mut there), None);
}

#[test]
fn what_shall_be_done_arrives_as_it_was() {
    let mut writer = Writer::default();
    let attrs = &[("drops", "a b")];
    writer.begin(&Begin {
        operation: "chat",
        model: "m",
        stream: true,
        body: b"{}",
        attrs,
        seed: 3,
        ..Begin::default()
    });
    let headers: &[(&str, &[u8])] = &[("retry-after", b"1"), ("x", b"\xff")];
    let inputs = [
        Input::Start,
        Input::Head { id: 1, status: 200, headers },
        Input::Body { id: 1, data: b"x" },
        Input::End { id: 1 },
        Input::TransportError { id: 2, text: "reset" },
        Input::Timer { id: 3 },
        Input::Cancel,
    ];
    for input in &inputs {
        writer.input(input);
    }
    let mut reader = Reader(&writer.0);
    let begun = reader.op(|op| format!("{op:?}")).expect("begin");
    assert!(begun.contains(r#"operation: "chat""#) && begun.contains(r#"("drops", "a b")"#), "{begun}");
    for input in &inputs {
        assert_eq!(reader.op(|op| format!("{op:?}")), Some(format!("{:?}", Op::Step(*input))));
    }
    assert!(reader.op(|_| ()).is_none());
}

#[test]
fn answers_that_are_cut_or_changed_do_no_harm() {
    let mut writer = recorded(|recorder| {
        hand_out(recorder);
    });
    writer.stepped(Duration::ZERO, &Ok(()));
    for cut in 0..writer.0.len() {
        assert_eq!(Reader(&writer.0[..cut]).replay(&mut Told::default()), None, "{cut}");
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = writer.0.clone();
            changed[cut] = value;
            let _ = Reader(&changed).replay(&mut Told::default());
        }
    }
}

#[test]
fn messages_travel_in_pieces_in_any_order() {
    for len in [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5] {
        let message: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let mut packets: Vec<Vec<u8>> =
            packets(9, &message).map(|(head, piece)| [head.bytes().as_slice(), piece].concat()).collect();
        packets.reverse();
        let (mut pieces, mut whole) = (Pieces::default(), None);
        for packet in &packets {
            let (head, piece) = Head::split(packet).expect("a packet");
            assert_eq!(head.is_whole(piece), packets.len() == 1);
            assert!(whole.is_none());
            whole = pieces.add(head, piece).expect("memory");
        }
        assert!(whole == Some(message), "{len}");
    }
    assert!(Head::split(&Head { id: 1, total: 3, offset: 4 }.bytes()).is_none());
    assert!(Head::split(&[0; 15]).is_none());
}

#[test]
fn a_step_hands_out_no_more_than_fits() {
    let chunk = vec![b'x'; 16 << 20];
    let (mut writer, mut last_id, mut done) = (Writer::default(), 0, false);
    let mut recorder = Recorder { writer: &mut writer, last_id: &mut last_id, done: &mut done, over: false };
    assert_eq!((0..8).filter(|_| recorder.emit(&chunk)).count(), 5);
    assert!(recorder.over);
    assert!(writer.0.len() < MAX_REPLY);
}
