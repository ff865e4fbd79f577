//! Draws an image: `cargo run --release --example generate`.

use maskgit::Generator;

fn main() -> maskgit::Result<()> {
    let mut generator = Generator::open("models/avatars-64")?;
    let mut request = generator.request("lorelei")?;
    request.seed = 7;
    let drawn = generator.generate(&request, &mut ())?;
    drawn.images[0].save("lorelei.png")
}
