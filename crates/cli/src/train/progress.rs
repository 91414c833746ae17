//! What a training says while it runs, and how its curve is smoothed.

/// Iterations of a moving average of the loss.
pub(super) const WINDOW: usize = 20;

/// A line on standard error, so that long work shows where it is.
pub(super) fn tell(text: &str) {
    eprintln!("train: {text}");
}

/// Moving averages.
pub(super) fn average(losses: &[f32]) -> Vec<f64> {
    let mean = |i: usize| {
        let from = (i + 1).saturating_sub(WINDOW);
        losses[from..=i].iter().map(|&v| f64::from(v)).sum::<f64>() / (i + 1 - from) as f64
    };
    (0..losses.len()).map(mean).collect()
}
