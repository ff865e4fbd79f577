//! Inks to light: CMYK through the profile that says what the inks are.

use moxcms::{ColorProfile, Layout, TransformOptions};

/// Converts Adobe's CMYK (0 is full ink) to sRGB by a profile for CMYK. `ycck`: its first three channels are coded as
/// brightness and colour. `None`: there is no such profile, or the library cannot use it.
pub(super) fn cmyk_to_rgb(pixels: &mut [u8], ycck: bool, profile: &[u8]) -> Option<Vec<u8>> {
    if profile.get(16..20) != Some(b"CMYK") {
        return None;
    }
    let profile = ColorProfile::new_from_slice(profile).ok()?;
    let srgb = ColorProfile::new_srgb();
    let transform =
        profile.create_transform_8bit(Layout::Rgba, &srgb, Layout::Rgb, TransformOptions::default()).ok()?;
    for pixel in pixels.as_chunks_mut::<4>().0 {
        if ycck {
            inks(pixel);
        }
        // A profile counts ink.
        pixel.iter_mut().for_each(|value| *value = 255 - *value);
    }
    let mut rgb = Vec::new();
    maskgit_core::memory::reserve(&mut rgb, pixels.len() / 4 * 3).ok()?;
    rgb.resize(pixels.len() / 4 * 3, 0);
    transform.transform(pixels, &mut rgb).ok()?;
    Some(rgb)
}

/// JFIF's conversion of the first three channels; of YCCK it gives what is left of the light, so the stored ink is 255
/// less it.
fn inks(pixel: &mut [u8; 4]) {
    let [y, blue, red] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
    let (blue, red) = (blue - 128.0, red - 128.0);
    let light = [y + 1.402 * red, y - 0.344_136 * blue - 0.714_136 * red, y + 1.772 * blue];
    for (value, light) in pixel.iter_mut().zip(light) {
        *value = 255 - light.round().clamp(0.0, 255.0) as u8;
    }
}

/// The colours that a profile is for, as it says: four letters.
pub(super) fn space(profile: &[u8]) -> Option<&str> {
    std::str::from_utf8(profile.get(16..20)?).ok().map(str::trim_end)
}
