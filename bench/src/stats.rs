//! Medians and percentiles.

/// The value below which this share (`0.0..=1.0`) of the samples lies: the nearest rank, never an average of two.
/// NaN if there are none.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * samples.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The middle sample.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The least and the greatest sample.
pub fn spread(samples: &[f64]) -> (f64, f64) {
    (quantile(samples, 0.0), quantile(samples, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_nearest_rank() {
        for (samples, share, expected) in [
            (&[3.0, 1.0, 2.0][..], 0.5, 2.0),
            (&[4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
            (&[5.0], 0.99, 5.0),
            (&[1.0, 2.0], 1.0, 2.0),
            (&[2.0, 1.0], 0.0, 1.0),
        ] {
            assert_eq!(quantile(samples, share), expected, "{samples:?} {share}");
        }
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.99), 99.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn an_outlier_moves_the_spread_and_not_the_median() {
        let samples = [1.0, 1.1, 0.9, 1.0, 40.0];
        assert_eq!(median(&samples), 1.0);
        assert_eq!(spread(&samples), (0.9, 40.0));
    }
}
