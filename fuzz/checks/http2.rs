//! What the other side says over HTTP/2 behind the preface: whatever it is and however it is cut, it makes the same streams, what is
//! said to it is sound, and bounded by what it sent.

use std::collections::HashSet;

use zoogate::proxy::codec::{StreamRequest, read_h2, serve_h2};
use zoogate::transport::codec::read_h2_answers;

/// The first byte says how the bytes are cut; the rest are frames, behind a SETTINGS where its second bit says so.
pub fn check(data: &[u8]) {
    let Some((&how, frames)) = data.split_first() else { return };
    let settings: &[u8] = if how & 2 == 0 { &[0, 0, 0, 4, 0, 0, 0, 0, 0] } else { &[] };
    let input = &[settings, frames].concat()[..];
    let mut state = u32::from(how) | 1;
    let mut random = std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((state >> 20) as usize)
    });
    let mut at = 0;
    let mut cut = || {
        at += 1 + random.next().unwrap_or(0) % (1 << (how >> 5));
        at
    };
    let whole = read_h2(input, []);
    assert_eq!(whole, read_h2(input, std::iter::repeat_with(&mut cut)));
    if input.len() <= 512 {
        assert_eq!(whole, read_h2(input, 1..));
    }
    sound(&whole.said, input.len());
    whole.requests.iter().for_each(well_formed);
    let held: usize = whole.requests.iter().map(|request| request.body.len()).sum();
    assert!(held <= input.len().min(1024 * 1024));

    let answers = read_h2_answers(input, []);
    assert_eq!(answers, read_h2_answers(input, std::iter::repeat_with(&mut cut)));
    sound(&answers.1, input.len());
    answers.0.iter().for_each(|answer| {
        assert!(
            answer.head.is_some() || answer.body.is_empty() && answer.trailers.is_none() && !answer.ended
        );
    });

    let mut at = 0;
    let answered = serve_h2(
        input,
        std::iter::from_fn(move || {
            at += 1 + usize::from(how >> 3) * 7;
            Some(at)
        }),
    );
    sound(&answered, usize::MAX);
}

fn well_formed(request: &StreamRequest) {
    assert!(request.stream % 2 == 1);
    let Some((_, target, headers)) = &request.head else { return };
    assert!(!target.is_empty());
    for (name, value) in headers {
        let name = name.as_str();
        assert!(!name.starts_with(':') && name.bytes().all(|byte| !byte.is_ascii_uppercase()));
        assert!(!matches!(
            name,
            "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection"
        ));
        assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    }
    assert!(headers.get_all("cookie").iter().count() <= 1);
    let length = headers
        .get("content-length")
        .map(|length| length.to_str().expect("digits").parse::<usize>().expect("a length"));
    if let (Some(length), true, false) = (length, request.ended, request.over) {
        assert_eq!(request.body.len(), length, "a body that is not as long as its head says");
    }
}

/// Whole frames, none on a stream after its end, and not much for nothing.
fn sound(said: &[u8], input: usize) {
    let (mut rest, mut ended) = (said, HashSet::new());
    while let [a, b, c, kind, flags, s @ ..] = rest {
        let len = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        assert!(len <= 16 * 1024 && s.len() >= 4 + len, "a frame that is cut");
        let stream = u32::from_be_bytes([s[0], s[1], s[2], s[3]]);
        rest = &rest[9 + len..];
        match kind {
            0 | 1 => {
                assert!(stream % 2 == 1 && !ended.contains(&stream), "{kind} on {stream} after its end");
                if flags & 1 != 0 {
                    ended.insert(stream);
                }
            }
            3 => drop(ended.insert(stream)),
            4 | 6..=8 => {}
            other => panic!("a frame of type {other}"),
        }
    }
    assert!(rest.is_empty());
    assert!(said.len() <= input.saturating_mul(3).saturating_add(200), "{} bytes for {input}", said.len());
}
