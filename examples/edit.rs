//! Repaints a box of an image: `cargo run --release --example edit`.

use maskgit::image_io::{self, Limits};
use maskgit::{Generator, Mask, Rect};

fn main() -> maskgit::Result<()> {
    let mut generator = Generator::open("models/avatars-64")?;
    let source = image_io::read_image("examples/images/open-peeps.png".as_ref(), &Limits::default())?;
    let (width, height) = source.rgb.dimensions();
    let mask = Mask::from_boxes(width, height, &[Rect::new(10, 0, 44, 28)])?;
    let mut request = generator.edit_request(Some("open-peeps"))?;
    request.seed = 1;
    let edited = generator.edit(&source.rgb, &mask, &request, &mut ())?;
    edited.images[0].save("hair.png")
}
