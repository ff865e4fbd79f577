//! The decoding loop, through what the pipeline uses of it.

/// Settings with some fields set.
macro_rules! changed {
    ($base:expr; $($field:ident: $value:expr),* $(,)?) => {{
        let mut settings: maskgit_core::Sampling = $base;
        $(settings.$field = $value;)*
        settings
    }};
}

mod properties;
mod random;
mod reference;
