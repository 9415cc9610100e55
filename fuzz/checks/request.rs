//! A client's bytes: whatever they are and however they are cut, they are the same requests, and framed as they say.

use http::Version;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use zoogate::proxy::codec::{Ending, WholeRequest, read_requests};

/// The first byte says how the bytes are cut; the rest are requests.
pub fn check(data: &[u8]) {
    let Some((&how, input)) = data.split_first() else { return };
    let whole = read_requests(input, []);
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
    same(&whole, &read_requests(input, random));
    if input.len() <= 1024 {
        same(&whole, &read_requests(input, 1..));
    }
    whole.0.iter().for_each(framed_as_it_says);
}

/// The same requests, and none behind what is refused. A broken head that comes in pieces is not looked at before its
/// end is there.
fn same(whole: &(Vec<WholeRequest>, Ending), cut: &(Vec<WholeRequest>, Ending)) {
    assert_eq!(whole.0, cut.0);
    assert_eq!(whole.1 == Ending::Between, cut.1 == Ending::Between);
}

fn framed_as_it_says(request: &WholeRequest) {
    let WholeRequest { target, version, headers, body, trailers, .. } = request;
    assert!(!target.is_empty() && target.len() <= 8 * 1024 + 64);
    assert!(headers.len() <= 100);
    let encodings: Vec<_> = headers.get_all(TRANSFER_ENCODING).iter().collect();
    let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
    assert!(encodings.len() + lengths.len() <= 1, "ambiguous framing was let through: {headers:?}");
    if let [encoding] = encodings[..] {
        assert!(encoding.as_bytes().eq_ignore_ascii_case(b"chunked") && *version == Version::HTTP_11);
    } else {
        let length =
            lengths.first().map_or(0, |length| length.to_str().expect("digits").parse().expect("a length"));
        assert_eq!(body.len() as u64, length);
        assert!(trailers.is_empty());
    }
}
