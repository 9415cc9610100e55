//! An answer's bytes: whatever they are and however they are cut, they are read alike, and framed as they say.

use http::StatusCode;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use zoogate::transport::codec::{WholeAnswer, read_whole};

/// The first byte says whether the request was a HEAD and how the bytes are cut; the rest are the answer.
pub fn check(data: &[u8]) {
    let Some((&how, input)) = data.split_first() else { return };
    let head = how & 1 == 1;
    let whole = read_whole(input, head, []);
    let mut state = u32::from(how) | 1;
    let random = std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((state >> 20) as usize)
    });
    let mut at = 0;
    let random = random.map(|step| {
        at += 1 + step % (1 << (how >> 5));
        at
    });
    same(&whole, &read_whole(input, head, random));
    if input.len() <= 1024 {
        same(&whole, &read_whole(input, head, 1..));
    }
    if let Ok(Some(answer)) = &whole {
        framed_as_it_says(answer, input, head);
    }
}

/// A sound answer is the same, and an unsound one never sound. How it fails may differ: a broken head that comes in
/// pieces is not looked at before its end is there, and is merely cut off where that never comes.
fn same<E: std::fmt::Debug>(whole: &Result<Option<WholeAnswer>, E>, cut: &Result<Option<WholeAnswer>, E>) {
    match (whole, cut) {
        (Ok(Some(whole)), Ok(Some(cut))) => assert_eq!(whole, cut),
        (Err(_) | Ok(None), Err(_) | Ok(None)) => {}
        _ => panic!("whole: {whole:?}, cut: {cut:?}"),
    }
}

fn framed_as_it_says(answer: &WholeAnswer, input: &[u8], head: bool) {
    let WholeAnswer { status, headers, body, trailers, taken } = answer;
    assert!(body.len() <= *taken && *taken <= input.len());
    assert!(!status.is_informational() || *status == StatusCode::SWITCHING_PROTOCOLS);
    let bodiless = head || matches!(status.as_u16(), 101 | 204 | 304);
    let chunked = headers.contains_key(TRANSFER_ENCODING);
    assert!(!bodiless || body.is_empty());
    assert!(trailers.is_empty() || chunked);
    let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
    assert!(lengths.len() <= 1, "two lengths were let through: {headers:?}");
    if let [length] = lengths[..] {
        assert!(!chunked, "both framings at once were let through: {headers:?}");
        let length: u64 = length.to_str().expect("digits").parse().expect("a length");
        assert!(bodiless || body.len() as u64 == length);
    }
    if !bodiless && !chunked && lengths.is_empty() {
        assert_eq!(*taken, input.len(), "to the end of the connection");
    }
}
