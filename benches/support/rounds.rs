//! What many rounds say together.

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median, and between which values all lie.
pub(crate) fn spread(values: Vec<f64>) -> String {
    spread_of(values, 2)
}

/// The same with so many digits behind the point.
pub(crate) fn spread_of(values: Vec<f64>, digits: usize) -> String {
    let [low, high] = [f64::min, f64::max].map(|choose| values.iter().copied().reduce(choose).unwrap_or_default());
    format!("{:.digits$} ({low:.digits$}–{high:.digits$})", median(values))
}
