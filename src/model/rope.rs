//! Rotary frequencies, as transformers' `modeling_rope_utils.py` computes them.

use std::f64::consts::PI;

/// How the frequencies are stretched for contexts beyond the trained one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All by the same factor.
    Linear {
        /// Positions are divided by it.
        factor: f64,
    },
    /// Llama 3.x: low frequencies by `factor`, high ones not, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Context that the model was first trained for, positions.
        original: f64,
    },
}

/// `theta^(-2i/d)` for i in 0..d/2, scaled; radians per position. `(head_dim / 2)`
pub fn inv_freq(head_dim: u32, theta: f64, scaling: RopeScaling) -> Vec<f32> {
    let frequency = |i: u32| theta.powf(-2.0 * f64::from(i) / f64::from(head_dim));
    let scaled = |f: f64| match scaling {
        RopeScaling::Default => f,
        RopeScaling::Linear { factor } => f / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
            let wavelength = 2.0 * PI / f;
            if wavelength > original / low_freq_factor {
                f / factor
            } else if wavelength < original / high_freq_factor {
                f
            } else {
                let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * f / factor + smooth * f
            }
        }
    };
    (0..head_dim / 2).map(|i| scaled(frequency(i)) as f32).collect()
}
