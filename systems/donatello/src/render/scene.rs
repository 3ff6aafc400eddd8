//! What a picture shows: sky, a light, ridges of land or towers, water, and sparks; which of them, the words decide.

use super::{
    noise::{Noise, lerp, step},
    palette::{Colour, Palette, blend},
};

pub struct Scene {
    noise: Noise,
    palette: Palette,
    /// The light's place and size.
    light: (f32, f32, f32),
    /// Where land ends and water begins, 0 to 1 from the top; above 1 without water.
    shore: f32,
    ridges: usize,
    towers: bool,
    boat: Option<(f32, f32)>,
    trees: bool,
    /// Without land: bands of colour that flow.
    flowing: bool,
}

const WATER: [&str; 12] =
    ["sea", "ocean", "harbour", "lake", "river", "water", "boat", "ship", "beach", "island", "sail", "wave"];
const CITY: [&str; 8] = ["city", "skyline", "town", "street", "tower", "towers", "building", "neon"];
const TREES: [&str; 6] = ["forest", "tree", "trees", "jungle", "park", "woods"];
const BOATS: [&str; 5] = ["boat", "ship", "sail", "yacht", "ferry"];
const FLOW: [&str; 9] = ["abstract", "pattern", "background", "texture", "dream", "galaxy", "music", "logo", "idea"];

impl Scene {
    pub fn of(words: &[String], noise: Noise, palette: Palette, aspect: f32) -> Scene {
        let any =
            |list: &[&str]| words.iter().any(|w| list.iter().any(|l| w == l || (w.strip_suffix('s') == Some(*l))));
        let pick = |n: u32| noise.pick(n);
        let water = any(&WATER) || pick(1) > 0.62;
        let flowing = any(&FLOW) || (!any(&WATER) && !any(&CITY) && !any(&TREES) && pick(2) > 0.72);
        let light = ((0.18 + 0.64 * pick(3)) * aspect, 0.2 + 0.2 * pick(4), 0.05 + 0.06 * pick(5));
        Scene {
            noise,
            palette,
            light,
            shore: if water { 0.64 + 0.1 * pick(6) } else { 2.0 },
            ridges: 3 + (pick(7) * 3.0) as usize,
            towers: any(&CITY),
            boat: any(&BOATS).then(|| ((0.25 + 0.5 * pick(8)) * aspect, 0.055 + 0.03 * pick(9))),
            trees: any(&TREES),
            flowing,
        }
    }

    /// The colour at a point: `u` to the right, `v` down from 0 to 1.
    pub fn colour(&self, u: f32, v: f32, aspect: f32) -> Colour {
        let colour = if self.flowing {
            self.flow(u, v)
        } else if v > self.shore {
            self.water(u, v, aspect)
        } else {
            self.land(u, v)
        };
        let colour = self.with_boat(colour, u, v);
        // The corners are darker, as in a photograph.
        let (dx, dy) = (u / aspect - 0.5, v - 0.5);
        let shade = 1.0 - 0.55 * (dx * dx + dy * dy);
        colour.map(|c| c * shade)
    }

    fn sky(&self, u: f32, v: f32) -> Colour {
        let p = &self.palette;
        let horizon = if self.shore < 1.0 { self.shore } else { 0.78 };
        let mut colour = blend(p.high, p.low, step(0.0, horizon, v).powf(1.25));
        let (lx, ly, size) = self.light;
        let distance = ((u - lx).powi(2) + (v - ly).powi(2)).sqrt();
        let glow = (-distance * 3.6).exp() * if p.night { 0.42 } else { 0.6 };
        colour = blend(colour, p.light, glow);
        let warp = self.noise.field(1).clouds(u * 1.7, v * 2.6, 2) * 1.3;
        let clouds = self.noise.field(2).clouds(u * 2.1 + warp, v * 6.2 - warp, 5);
        let veil = step(0.5, 0.82, clouds) * (1.0 - step(horizon * 0.75, horizon, v));
        colour = blend(colour, blend(p.low, p.light, 0.5), veil * if p.night { 0.28 } else { 0.62 });
        colour = blend(colour, blend(p.light, [1.0; 3], 0.55), step(size, size * 0.94, distance));
        if p.night {
            let (cell, fine) = (170.0, self.noise.field(3));
            let (cx, cy) = ((u * cell).floor(), (v * cell).floor());
            let here = fine.pick((cx as u32).wrapping_mul(7919) ^ (cy as u32).wrapping_mul(104_729));
            if here > 0.985 {
                let (du, dv) = (u * cell - cx - 0.5, v * cell - cy - 0.5);
                let star = (1.0 - (du * du + dv * dv).sqrt() * 2.2).max(0.0) * (here - 0.985) * 66.0;
                colour = blend(colour, [1.0; 3], star.min(1.0) * (1.0 - veil));
            }
        }
        colour
    }

    fn land(&self, u: f32, v: f32) -> Colour {
        let p = &self.palette;
        let mut colour = self.sky(u, v);
        let base = if self.shore < 1.0 { self.shore } else { 0.98 };
        for i in 0..self.ridges {
            let depth = (i as f32 + 1.0) / self.ridges as f32;
            let field = self.noise.field(10 + i as u32);
            let span = if self.shore < 1.0 { 0.2 } else { 0.42 };
            let rough = field.clouds(u * (1.6 + depth * 2.2) + i as f32 * 9.0, i as f32 * 3.7, 5);
            let mut top = base - span * (1.0 - depth) - (rough - 0.35) * (0.16 + 0.12 * (1.0 - depth));
            let mut window = 0.0;
            if self.towers {
                let columns = 14.0 + depth * 12.0;
                let column = (u * columns).floor();
                let inside = u * columns - column;
                let tall = field.pick(column as u32 + 77);
                if inside > 0.08 && inside < 0.92 {
                    top = top.min(base - span * 0.4 * (1.0 - depth) - tall * tall * (0.36 - 0.16 * depth));
                    let (wx, wy) = ((inside * 6.0).floor(), (v * 95.0).floor());
                    let lit = field.pick(((column as u32) << 16) ^ ((wx as u32) << 10) ^ (wy as u32));
                    let pane = (inside * 6.0).fract() > 0.3 && (v * 95.0).fract() > 0.4;
                    if lit > 0.72 && pane && v > top + 0.012 {
                        window = 0.85 * depth;
                    }
                }
            }
            if self.trees && depth > 0.4 {
                let columns = 46.0 * depth;
                let column = (u * columns).floor();
                let inside = (u * columns - column - 0.5).abs() * 2.0;
                let tall = 0.03 + 0.09 * field.pick(column as u32 + 5) * depth;
                top -= tall * (1.0 - inside).max(0.0);
            }
            let covered = step(top - 0.0016, top + 0.0016, v);
            if covered > 0.0 {
                let mut body = blend(p.far, p.near, depth.powf(1.3));
                // Mist lies at the foot of what is far, light on what faces it.
                let foot = step(top, top + 0.26, v) * (1.0 - depth) * 0.75;
                body = blend(body, p.low, foot);
                let sunny = (-(u - self.light.0).abs() * 2.4).exp() * step(top + 0.05, top, v);
                body = blend(body, p.light, 0.3 * sunny * (1.0 - depth * 0.6));
                let grown = field.field(9).clouds(u * 30.0, v * 42.0, 3) - 0.5;
                body = body.map(|c| c * (1.0 + grown * 0.22));
                body = blend(body, p.light, window);
                colour = blend(colour, body, covered);
            }
        }
        colour
    }

    /// What is above, mirrored and broken by waves.
    fn water(&self, u: f32, v: f32, aspect: f32) -> Colour {
        let p = &self.palette;
        let below = (v - self.shore) / (1.0 - self.shore).max(0.05);
        let waves = self.noise.field(30);
        let ripple = waves.clouds(u * 6.0 / (0.2 + below), v * 60.0 / (0.35 + below), 3) - 0.5;
        let mirrored = (self.shore - (v - self.shore) * 1.1 + ripple * 0.08 * below).clamp(0.0, self.shore);
        let at = (u + ripple * 0.03 * below).clamp(0.0, aspect);
        let mut colour = blend(self.land(at, mirrored), p.high, 0.22 + 0.3 * below);
        let glitter = step(0.12, 0.3, ripple) * (-(u - self.light.0).abs() * (9.0 - 5.0 * below)).exp();
        colour = blend(colour, p.light, 0.85 * glitter);
        blend(colour, p.near, 0.3 * below * below)
    }

    fn with_boat(&self, colour: Colour, u: f32, v: f32) -> Colour {
        let Some((x, size)) = self.boat else { return colour };
        let foot = self.shore.min(0.8) + 0.05;
        let (dx, dy) = ((u - x) / size, (foot - v) / size);
        let p = &self.palette;
        // A hull that is narrower below, a mast, two sails.
        let hull = (-0.22..0.2).contains(&dy) && dx.abs() < 1.0 + dy * 1.2;
        let main = dy > 0.3 && dy < 2.7 && dx > 0.06 && dx < 0.06 + 0.95 * (1.0 - (dy - 0.3) / 2.4);
        let fore = dy > 0.3 && dy < 2.2 && dx < -0.06 && dx > -0.06 - 0.7 * (1.0 - (dy - 0.3) / 1.9);
        let mast = dx.abs() < 0.03 && (0.2..2.8).contains(&dy);
        if hull || mast {
            return blend(p.near, [0.0; 3], 0.25);
        }
        if main || fore {
            let swell = if main { dx } else { -dx * 0.8 };
            return blend(blend(p.light, [1.0; 3], 0.55), p.far, lerp(0.05, 0.4, swell.clamp(0.0, 1.0)));
        }
        colour
    }

    /// Folds of colour without a scene.
    fn flow(&self, u: f32, v: f32) -> Colour {
        let p = &self.palette;
        let (a, b) = (self.noise.field(40), self.noise.field(41));
        let x = u + 0.55 * a.clouds(u * 1.4, v * 1.4, 4);
        let y = v + 0.55 * b.clouds(u * 1.3 + 5.0, v * 1.3, 4);
        let fold = self.noise.field(42).clouds(x * 2.2, y * 2.2, 5);
        let band = (fold * 9.0 + x * 2.0).sin() * 0.5 + 0.5;
        let deep = blend(p.high, p.near, step(0.3, 0.75, fold));
        let mut colour = blend(deep, p.low, band * 0.75);
        let edge = (1.0 - (band - 0.5).abs() * 9.0).max(0.0);
        colour = blend(colour, p.light, edge * 0.55);
        let (lx, ly, size) = self.light;
        let distance = ((u - lx).powi(2) + (v - ly * 1.6).powi(2)).sqrt();
        colour = blend(colour, p.light, (-distance * 3.0).exp() * 0.5);
        blend(colour, blend(p.light, [1.0; 3], 0.5), step(size, size * 0.95, distance))
    }
}
