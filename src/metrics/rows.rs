//! Families of metrics, row by row, as the encoder of the Prometheus library wants them.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::histogram::Snapshot;

/// A value and its labels.
pub(super) struct Row {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Row {
    /// A value with these labels. A label without a text is none.
    pub(super) fn of<const N: usize>(labels: [(&'static str, String); N], value: f64) -> Self {
        Self { labels: labels.into_iter().filter(|(_, text)| !text.is_empty()).collect(), value }
    }
}

/// A count without labels.
pub(super) fn count(value: u64) -> Row {
    Row::of([], value as f64)
}

/// Writes families.
pub(super) struct Encoder<'a>(pub(super) DescriptorEncoder<'a>);

impl Encoder<'_> {
    /// A family of counters or gauges.
    pub(super) fn write(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        rows: impl IntoIterator<Item = Row>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for row in rows {
            let mut metric = family.encode_family(&row.labels)?;
            match kind {
                MetricType::Counter => metric.encode_counter::<NoLabelSet, f64, f64>(&row.value, None)?,
                _ => metric.encode_gauge(&row.value)?,
            }
        }
        Ok(())
    }

    /// A family of histograms.
    pub(super) fn histograms<const N: usize, const BOUNDS: usize>(
        &mut self,
        name: &str,
        help: &str,
        histograms: &[([(&'static str, &'static str); N], Snapshot<BOUNDS>)],
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, snapshot) in histograms {
            let mut metric = family.encode_family(labels)?;
            metric.encode_histogram::<NoLabelSet>(snapshot.seconds(), snapshot.count(), &snapshot.buckets(), None)?;
        }
        Ok(())
    }
}
