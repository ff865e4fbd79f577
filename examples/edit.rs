//! Repaints a box of an image: `cargo run --release --example edit`.

use maskgit::{Generator, Limits, Mask, Rect, Request, read_image};

fn main() -> maskgit::Result<()> {
    let mut generator = Generator::open("models/avatars-64")?;
    let source = read_image("examples/images/open-peeps.png".as_ref(), &Limits::default())?;
    let (width, height) = source.rgb.dimensions();
    let mask = Mask::from_boxes(width, height, &[Rect::new(10, 0, 44, 28)])?;
    let request = Request::edit(source.rgb, mask).with_class("open-peeps").with_seed(1);
    generator.generate(&request)?.images[0].save("hair.png")
}
