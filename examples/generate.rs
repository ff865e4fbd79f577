//! Draws an image: `cargo run --release --example generate`.

use maskgit::{Generator, Request};

fn main() -> maskgit::Result<()> {
    let mut generator = Generator::open("models/avatars-64")?;
    let request = Request::generate().with_class("lorelei").with_seed(7);
    generator.generate(&request)?.images[0].save("lorelei.png")
}
