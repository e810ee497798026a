//! The definition of one metric, and the handles that record it.

use metrics::{
    Counter, Gauge, Histogram, Label, Unit, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};

/// Name, type, unit, labels and meaning of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// `pushonce_…`; ends with `_total` for a counter, after the base unit if it has one.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// Seconds or bytes, or [`Unit::Count`] for a number of things.
    pub unit: Unit,
    /// The names of its labels, in the order in which the `register_…` functions expect the values.
    pub labels: &'static [&'static str],
    /// What it measures, as one or more sentences on one line.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricKind {
    /// A sum that only grows.
    Counter,
    /// A value that rises and falls.
    Gauge,
    /// Observations, counted by bucket.
    Histogram {
        /// Upper bounds of the buckets, ascending, in the unit of the metric.
        buckets: &'static [f64],
    },
}

impl Metric {
    /// A counter without unit and labels.
    pub const fn counter(name: &'static str, help: &'static str) -> Metric {
        Metric { name, kind: MetricKind::Counter, unit: Unit::Count, labels: &[], help }
    }

    /// A gauge without unit and labels.
    pub const fn gauge(name: &'static str, help: &'static str) -> Metric {
        Metric { name, kind: MetricKind::Gauge, unit: Unit::Count, labels: &[], help }
    }

    /// A histogram without unit and labels. `buckets` are ascending upper bounds.
    pub const fn histogram(
        name: &'static str,
        buckets: &'static [f64],
        help: &'static str,
    ) -> Metric {
        let kind = MetricKind::Histogram { buckets };
        Metric { name, kind, unit: Unit::Count, labels: &[], help }
    }

    /// The same metric in this unit, which the name must end with.
    pub const fn with_unit(self, unit: Unit) -> Metric {
        Metric { unit, ..self }
    }

    /// The same metric with these labels.
    pub const fn with_labels(self, labels: &'static [&'static str]) -> Metric {
        Metric { labels, ..self }
    }

    /// The counter of the series with these label values.
    pub fn register_counter(&self, values: &[&str]) -> Counter {
        debug_assert!(self.kind == MetricKind::Counter, "{} is no counter", self.name);
        counter!(self.name, self.label_pairs(values))
    }

    /// The gauge of the series with these label values.
    pub fn register_gauge(&self, values: &[&str]) -> Gauge {
        debug_assert!(self.kind == MetricKind::Gauge, "{} is no gauge", self.name);
        gauge!(self.name, self.label_pairs(values))
    }

    /// The histogram of the series with these label values.
    pub fn register_histogram(&self, values: &[&str]) -> Histogram {
        let is_histogram = matches!(self.kind, MetricKind::Histogram { .. });
        debug_assert!(is_histogram, "{} is no histogram", self.name);
        histogram!(self.name, self.label_pairs(values))
    }

    /// Gives the recorder of the process the unit and the help text.
    pub fn describe(&self) {
        match self.kind {
            MetricKind::Counter => describe_counter!(self.name, self.unit, self.help),
            MetricKind::Gauge => describe_gauge!(self.name, self.unit, self.help),
            MetricKind::Histogram { .. } => describe_histogram!(self.name, self.unit, self.help),
        }
    }

    fn label_pairs(&self, values: &[&str]) -> Vec<Label> {
        debug_assert_eq!(values.len(), self.labels.len(), "label values of {}", self.name);
        let pairs = self.labels.iter().zip(values);
        pairs.map(|(&name, &value)| Label::new(name, value.to_owned())).collect()
    }
}
