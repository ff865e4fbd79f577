//! Threads that compute have stacks of a size of their own (`crates/kernels/src/pool.rs`): a quarter of it is enough.

use maskgit::Request;

use crate::common::{TINY, boxes, noise, open, root};

/// A quarter of what a helper has.
const STACK_BYTES: usize = 256 << 10;

/// All operators of these models run on the thread that calls, of which the helpers run the parts.
#[test]
fn operators_need_little_stack() {
    let bundled = ["models/avatars-64", "models/avatars-64-int8", "models/avatars-128-int8"].map(root);
    let models = bundled.iter().map(|path| path.to_str().unwrap()).chain([TINY]);
    for model in models {
        let mut generator = open(model, 1);
        let size = generator.manifest().image;
        let image = noise(size.width, size.height, 1);
        // Loaded here: that needs more, and is done on the thread that calls.
        generator.encode(&image).unwrap();
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let work = move || {
            let class = generator.manifest().labels[0].clone();
            let mask = boxes(size.width, size.height, &[(0, 0, 8, 8)]);
            let edit = Request::edit(image, mask).with_class(class);
            let mut two = maskgit::SamplingChanges::default();
            two.steps = Some(2);
            generator.generate(&edit.with_sampling(two)).map(|done| done.images.len())
        };
        assert_eq!(thread.spawn(work).unwrap().join().unwrap().unwrap(), 1, "{model}");
    }
}
