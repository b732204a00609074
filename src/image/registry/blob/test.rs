use super::*;

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
