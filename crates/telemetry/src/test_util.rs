//! A recorder for tests, to check that a metric is recorded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

/// Stores what the handles record that are taken within [`TestRecorder::run`]. Clones share it.
#[derive(Clone, Default)]
pub struct TestRecorder(Arc<Mutex<BTreeMap<SeriesKey, Arc<Series>>>>);

/// The name and the label values.
type SeriesKey = (String, Vec<String>);

/// The value of a counter or a gauge, or the observations of a histogram.
#[derive(Default)]
struct Series {
    value: Mutex<f64>,
    observations: Mutex<Vec<f64>>,
}

impl TestRecorder {
    /// Runs `f` with this recorder in place of that of the process, on this thread.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(self, f)
    }

    /// The value of a counter or a gauge; 0 for a series that does not exist.
    pub fn value(&self, name: &str, label_values: &[&str]) -> f64 {
        self.series(name, label_values).map_or(0.0, |series| *lock(&series.value))
    }

    /// The observations of a histogram, oldest first.
    pub fn observations(&self, name: &str, label_values: &[&str]) -> Vec<f64> {
        let series = self.series(name, label_values);
        series.map_or_else(Vec::new, |series| lock(&series.observations).clone())
    }

    fn series(&self, name: &str, label_values: &[&str]) -> Option<Arc<Series>> {
        let labels = label_values.iter().map(|&value| value.to_owned()).collect();
        lock(&self.0).get(&(name.to_owned(), labels)).cloned()
    }

    fn register(&self, key: &Key) -> Arc<Series> {
        let labels = key.labels().map(|label| label.value().to_owned()).collect();
        lock(&self.0).entry((key.name().to_owned(), labels)).or_default().clone()
    }
}

impl Recorder for TestRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.register(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.register(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.register(key))
    }
}

impl CounterFn for Series {
    fn increment(&self, value: u64) {
        *lock(&self.value) += value as f64;
    }

    fn absolute(&self, value: u64) {
        *lock(&self.value) = value as f64;
    }
}

impl GaugeFn for Series {
    fn increment(&self, value: f64) {
        *lock(&self.value) += value;
    }

    fn decrement(&self, value: f64) {
        *lock(&self.value) -= value;
    }

    fn set(&self, value: f64) {
        *lock(&self.value) = value;
    }
}

impl HistogramFn for Series {
    fn record(&self, value: f64) {
        lock(&self.observations).push(value);
    }
}

/// Ignores poisoning: the test has failed already.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
