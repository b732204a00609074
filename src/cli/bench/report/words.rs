//! What is said around the figures.

/// Title and explanation of a subject.
pub fn of(subject: &str) -> (&'static str, &'static str) {
    match subject {
        "pod" => (
            "The life of a pod",
            "One pod with one container, brought up, used and taken down, one call after the other as a kubelet makes them. The \
             first instruction is the moment at which the client sees the workload\u{2019}s first line in its log, counted from \
             StartContainer; pod-up is everything until then.",
        ),
        "exec" => (
            "Exec",
            "ExecSync of true in a container that runs: what a probe costs. Above, one at a time with a rest before each; the \
             rate is that of several clients at once.",
        ),
        "burst" => (
            "Many pods at once",
            "A node that is filled and emptied again: the time until the last workload has logged its first line, that of each \
             pod on its way there, and the time until the last pod is removed.",
        ),
        "list" => (
            "Lists and statistics",
            "What a kubelet and its metrics ask all the time, while pods run.",
        ),
        "pull" => (
            "Pulling an image",
            "RemoveImage, then PullImage from the registry, unpacked and ready for a pod.",
        ),
        "memory" => (
            "Memory",
            "The proportional set size of everything that is not the workload: the daemon, its children, and the shims, monitors \
             and pause processes that came with the pods.",
        ),
        _ => ("", ""),
    }
}

pub const METHOD: &str = "Each runtime was measured as its client sees it, on one connection, from the moment a call is sent until \
     its answer is there. The endpoints took turns in each round, and another one began in the next; before each measured step \
     there was a rest. Percentiles are values that were measured (nearest rank). The interval of a median contains the true one \
     with 95 % confidence, by order statistics and without an assumption on the distribution; that of a ratio of medians is a \
     percentile bootstrap of 2,000 resamples. Below six values there is none. In the figures a dot is one measured value, the \
     line is the median and the band around it its interval.";
