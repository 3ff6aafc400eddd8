//! Pictures without any AI: the prompt is hashed, its words choose a scene and colours, and noise does the rest.
//!
//! The same prompt, style and size always give the same picture. It is what serves when no provider is configured, and what
//! the stand-ins of providers send. Nothing here understands a prompt; every page and every image says so.

mod noise;
mod palette;
mod scene;
mod turn;

use aws_lc_rs::digest;

use noise::Noise;
use palette::Palette;
use scene::Scene;

pub use turn::in_turn;

/// A PNG of the prompt.
pub fn render(prompt: &str, style: &str, (width, height): (u32, u32)) -> Vec<u8> {
    let words: Vec<String> = prompt
        .to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect();
    let digest = digest::digest(&digest::SHA256, words.join(" ").as_bytes());
    let seed: [u8; 8] = std::array::from_fn(|i| digest.as_ref()[i]);
    let noise = Noise::new(u64::from_le_bytes(seed));
    let palette = Palette::of(&words, digest.as_ref(), style == "vivid");
    let scene = Scene::of(&words, noise, palette, width as f32 / height as f32);
    let mut pixels = Vec::with_capacity((width * height * 3) as usize);
    let (w, h) = (width as f32, height as f32);
    for y in 0..height {
        for x in 0..width {
            // The longer side is one and a bit; y runs from 0 at the top to 1 at the bottom.
            let (u, v) = ((x as f32 + 0.5) / h.max(1.0), (y as f32 + 0.5) / h.max(1.0));
            let grain = noise.grain(x, y) * 0.012;
            let [r, g, b] = scene.colour(u, v, w / h);
            for part in [r, g, b] {
                pixels.push(((part + grain).clamp(0.0, 1.0) * 255.0) as u8);
            }
        }
    }
    encode(&pixels, width, height)
}

/// A PNG of RGB pixels.
pub fn encode(pixels: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / 2);
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(pixels));
    // Into memory and with a buffer of the right size, nothing is left that can fail.
    debug_assert!(written.is_ok());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_gives_its_own_picture_again_and_again() {
        let one = render("A red boat in the harbour", "vivid", (48, 48));
        assert_eq!(one, render("a red boat  in the harbour!", "vivid", (48, 48)), "case and marks change nothing");
        assert_ne!(one, render("a blue boat in the harbour", "vivid", (48, 48)));
        assert_ne!(one, render("a red boat in the harbour", "natural", (48, 48)));
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(24))]
        #[test]
        fn any_prompt_gives_a_picture(prompt in "\\PC{0,60}", wide in 8_u32..40, high in 8_u32..40) {
            let png = render(&prompt, "vivid", (wide, high));
            proptest::prop_assert_eq!(crate::image::check(&png, (wide, high)), Ok(()));
        }
    }
}
