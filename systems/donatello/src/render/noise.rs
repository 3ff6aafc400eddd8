//! Smooth noise from a seed: value noise, and octaves of it.

#[derive(Clone, Copy)]
pub struct Noise {
    seed: u32,
}

impl Noise {
    pub fn new(seed: u64) -> Noise {
        Noise { seed: (seed ^ (seed >> 32)) as u32 }
    }

    /// Another field of the same seed.
    pub fn field(self, number: u32) -> Noise {
        Noise { seed: mix(self.seed ^ number.wrapping_mul(0x9E37_79B9)) }
    }

    /// A number from 0 to 1 for a whole number.
    pub fn pick(self, number: u32) -> f32 {
        unit(mix(self.seed ^ mix(number)))
    }

    fn at(self, x: i32, y: i32) -> f32 {
        unit(mix(self.seed ^ mix(x as u32).wrapping_add((y as u32).wrapping_mul(0x85EB_CA6B))))
    }

    /// Smooth noise, 0 to 1.
    pub fn smooth(self, x: f32, y: f32) -> f32 {
        let (fx, fy) = (x.floor(), y.floor());
        let (ix, iy) = (fx as i32, fy as i32);
        let ease = |t: f32| t * t * (3.0 - 2.0 * t);
        let (tx, ty) = (ease(x - fx), ease(y - fy));
        let top = lerp(self.at(ix, iy), self.at(ix + 1, iy), tx);
        let bottom = lerp(self.at(ix, iy + 1), self.at(ix + 1, iy + 1), tx);
        lerp(top, bottom, ty)
    }

    /// Octaves of smooth noise, 0 to 1.
    pub fn clouds(self, x: f32, y: f32, octaves: u32) -> f32 {
        let (mut sum, mut weight, mut scale) = (0.0, 0.5, 1.0);
        for octave in 0..octaves {
            let shift = octave as f32 * 17.3;
            sum += weight * self.smooth(x * scale + shift, y * scale - shift);
            weight *= 0.5;
            scale *= 2.03;
        }
        sum / (1.0 - weight * 2.0).max(0.1)
    }

    /// Film grain, -1 to 1.
    pub fn grain(self, x: u32, y: u32) -> f32 {
        unit(mix(self.seed ^ mix(x.wrapping_mul(0x27D4_EB2F) ^ y.wrapping_mul(0x1656_67B1)))) * 2.0 - 1.0
    }
}

fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x7FEB_352D);
    h ^= h >> 15;
    h = h.wrapping_mul(0x846C_A68B);
    h ^ (h >> 16)
}

fn unit(h: u32) -> f32 {
    (h >> 8) as f32 / 16_777_216.0
}

pub fn lerp(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// 0 below `from`, 1 above `to`, smooth between.
pub fn step(from: f32, to: f32, value: f32) -> f32 {
    let t = ((value - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}
