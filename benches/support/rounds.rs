//! What many rounds say together.

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median, and between which values all lie.
pub(crate) fn spread(values: Vec<f64>) -> String {
    let [low, high] = [f64::min, f64::max].map(|choose| values.iter().copied().reduce(choose).unwrap_or_default());
    format!("{:.2} ({low:.2}–{high:.2})", median(values))
}
