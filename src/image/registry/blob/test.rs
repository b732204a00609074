use super::*;

#[test]
fn a_range_is_believed_only_if_it_is_the_one() {
    let of = |text: &str| Range::parse(text);
    let range = of("bytes 10-19/100").unwrap();
    assert_eq!((range.begin, range.end, range.size), (10, 20, Some(100)));
    assert!(range.is(10, None, 100) && range.is(10, Some(20), 100));
    assert!(!range.is(9, None, 100) && !range.is(10, Some(21), 100) && !range.is(10, None, 101));
    assert!(of("bytes 0-99/*").unwrap().is(0, None, 100));
    assert!(!of("bytes 0-100/*").unwrap().is(0, None, 100), "beyond the end");
    for none in [
        "",
        "bytes */100",
        "bytes 5-4/100",
        "items 0-1/2",
        "bytes 0-18446744073709551615/*",
    ] {
        assert_eq!(of(none), None, "{none}");
    }
}

#[test]
fn only_a_body_that_is_waited_for_is_slow() {
    let watch = |waited, bytes| Watch {
        since: Instant::now() - Duration::from_secs(1),
        waited: Duration::from_millis(waited),
        bytes,
    };
    assert!(watch(900, 10 << 20).is_slow(100 << 20));
    assert!(!watch(100, 10 << 20).is_slow(100 << 20), "the reader is the slow one");
    assert!(!watch(900, 100 << 20).is_slow(50 << 20), "it is over in a moment");
    assert!(!Watch::new().is_slow(100 << 20), "nothing is known yet");
}
