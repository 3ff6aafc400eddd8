//! The colours of a picture: those the words name, else those the hash gives.

use super::noise::lerp;

pub type Colour = [f32; 3];

#[derive(Clone, Copy)]
pub struct Palette {
    pub night: bool,
    /// The sky at the top and at the horizon.
    pub high: Colour,
    pub low: Colour,
    /// Near and far land.
    pub far: Colour,
    pub near: Colour,
    /// Sun, lights, accents.
    pub light: Colour,
}

/// Words that name a hue, in degrees.
const HUES: [(&str, f32); 30] = [
    ("red", 2.0),
    ("crimson", 348.0),
    ("rose", 340.0),
    ("pink", 330.0),
    ("magenta", 305.0),
    ("purple", 275.0),
    ("violet", 268.0),
    ("lavender", 255.0),
    ("indigo", 240.0),
    ("blue", 215.0),
    ("ocean", 205.0),
    ("sea", 200.0),
    ("harbour", 208.0),
    ("sky", 205.0),
    ("ice", 190.0),
    ("teal", 178.0),
    ("turquoise", 172.0),
    ("green", 135.0),
    ("forest", 140.0),
    ("jungle", 125.0),
    ("lime", 85.0),
    ("yellow", 50.0),
    ("gold", 43.0),
    ("golden", 43.0),
    ("amber", 38.0),
    ("desert", 30.0),
    ("orange", 26.0),
    ("sunset", 18.0),
    ("autumn", 22.0),
    ("fire", 10.0),
];
const DARK: [&str; 8] = ["night", "midnight", "moon", "stars", "starry", "dark", "neon", "galaxy"];

impl Palette {
    pub fn of(words: &[String], digest: &[u8], vivid: bool) -> Palette {
        let named: Vec<f32> = words.iter().filter_map(|w| HUES.iter().find(|(n, _)| n == w)).map(|(_, h)| *h).collect();
        let hashed = f32::from(digest[9]) / 255.0 * 360.0;
        let main = named.first().copied().unwrap_or(hashed);
        // A second named hue is the light's; else a neighbour or the opposite.
        let turn = if digest[10].is_multiple_of(3) { 180.0 } else { 35.0 + f32::from(digest[10] % 40) };
        let light = named.get(1).copied().unwrap_or(main + turn);
        let night =
            words.iter().any(|w| DARK.contains(&w.as_str())) || (named.is_empty() && digest[11].is_multiple_of(4));
        let s = if vivid { 1.0 } else { 0.58 };
        let drift = 18.0 + f32::from(digest[12] % 24);
        if night {
            Palette {
                night,
                high: hsl(main + drift, 0.55 * s, 0.06),
                low: hsl(main - drift * 0.5, 0.6 * s, 0.27),
                far: hsl(main, 0.4 * s, 0.2),
                near: hsl(main + drift, 0.5 * s, 0.035),
                light: hsl(light, 0.85 * s, 0.72),
            }
        } else {
            Palette {
                night,
                high: hsl(main + drift, 0.62 * s, 0.52),
                low: hsl(light, 0.72 * s, 0.86),
                far: hsl(main, 0.38 * s, 0.66),
                near: hsl(main + drift, 0.52 * s, 0.15),
                light: hsl(light, 0.95 * s, 0.74),
            }
        }
    }
}

pub fn blend(a: Colour, b: Colour, t: f32) -> Colour {
    std::array::from_fn(|i| lerp(a[i], b[i], t))
}

/// Hue in degrees, saturation and lightness from 0 to 1.
pub fn hsl(hue: f32, saturation: f32, lightness: f32) -> Colour {
    let h = hue.rem_euclid(360.0) / 30.0;
    let a = saturation * lightness.min(1.0 - lightness);
    let part = |n: f32| {
        let k = (n + h) % 12.0;
        lightness - a * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0)
    };
    [part(0.0), part(8.0), part(4.0)]
}
