//! How times are bucketed.
//!
//! Each histogram is classic and native at once: a scraper that asks for protobuf gets the
//! native buckets, any other the classic ones.

use prometheus_client::metrics::histogram::{Histogram, NativeHistogramConfig};

/// Native resolution: neighbouring buckets differ by 2^(1/8), 9 %. Finer: more memory and
/// samples than any decision about a timeout needs. Coarser: 5 s and 6 s look alike.
const NATIVE_SCHEMA: i8 = 3;

/// Native buckets a series keeps; with more its resolution is halved. Too few: one outlier
/// coarsens all. Too many: memory, 16 bytes each for each of thousands of series.
const NATIVE_MAX_BUCKETS: usize = 100;

/// Seconds of a network round trip or a handshake.
const ROUND_TRIP_SECONDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 3.0, 7.0,
];

/// Seconds of work. The upper bounds are where timeouts stand: 5, 15, 30, 60 s are defaults
/// of Envoy, Traefik, Varnish, nginx and httpd.
const WORK_SECONDS: [f64; 16] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0,
    120.0,
];

/// Seconds a connection lay idle. Bounds sit around the keep-alive timeouts in use: 2 s
/// (gunicorn), 5 s (node.js, httpd), 15, 30, 60, 65 and 75 s (nginx).
const IDLE_SECONDS: [f64; 14] = [
    0.01, 0.1, 0.5, 1.0, 1.9, 2.1, 4.5, 5.5, 14.0, 29.0, 59.0, 64.0, 76.0, 300.0,
];

/// Buckets for round trips and handshakes.
pub(super) fn round_trip() -> Histogram {
    histogram(ROUND_TRIP_SECONDS)
}

/// Buckets for work.
pub(super) fn work() -> Histogram {
    histogram(WORK_SECONDS)
}

/// Buckets for idle times.
pub(super) fn idle() -> Histogram {
    histogram(IDLE_SECONDS)
}

fn histogram(bounds: impl IntoIterator<Item = f64>) -> Histogram {
    let native = NativeHistogramConfig::with_schema(NATIVE_SCHEMA).max_buckets(NATIVE_MAX_BUCKETS);
    Histogram::new_classic_and_native(bounds, native)
}
