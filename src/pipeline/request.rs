//! What to draw: one request for generation and every kind of edit.

use std::sync::Arc;

use image::RgbImage;
use maskgit_bundle::Manifest;
use maskgit_core::{Error, Result, Sampling, SamplingChanges};
use maskgit_geometry::{Feather, MAX_CONTEXT, Mask, Outpaint, Windows};

use super::label::find_label;

/// The most images one request may ask for.
pub const MAX_COUNT: usize = 10_000;

/// What an image is made of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Subject {
    /// Nothing: every token is drawn.
    Blank,
    /// An image of any size, of which the masked pixels are repainted.
    ///
    /// Each part of the mask is brought to the model in a window of its own. Tokens that the mask touches, and
    /// [`Edge::dilation`] rings around them, are drawn; the others keep what the encoder gives. The decoded window goes
    /// over the image with the feather; pixels farther from the mask than [`Feather::reach`] keep their bytes. Nothing
    /// depends on pixels of full weight: masked ones are filled from others before anything else sees them.
    Edit {
        /// The image.
        image: Arc<RgbImage>,
        /// Of the image's size. An empty mask gives the image back.
        mask: Arc<Mask>,
        /// How much larger a window is than the part of the mask that it repaints, 1 to 1,000,000; at least the model's
        /// size and at most the image.
        context: f32,
        /// Whether a thin part of the mask is painted in several windows along it.
        windows: Windows,
    },
    /// An image that is extended by any number of pixels on any sides, in windows that overlap, each drawn from what is
    /// there.
    Outpaint {
        /// The image.
        image: Arc<RgbImage>,
        /// By how much, and in which steps.
        sides: Outpaint,
    },
    /// An image, of whose N tokens round(`strength` N), chosen by the seed, are drawn anew. The image is one window;
    /// the result has its size. Dilation and feather play no part.
    Vary {
        /// The image.
        image: Arc<RgbImage>,
        /// 0 to 1: 0 draws nothing and shows what the tokens hold of the image, 1 keeps nothing.
        strength: f32,
    },
}

/// The seeds of a request's images: image `i` has `first + i` (modulo 2⁶⁴) and is the only image of a request with that
/// seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// The seed of the first image.
    pub first: u64,
    /// How many, 1 to [`MAX_COUNT`].
    pub count: usize,
}

impl Seeds {
    /// The seed of image `index`.
    pub fn at(self, index: usize) -> u64 {
        self.first.wrapping_add(index as u64)
    }
}

/// The border of what an edit draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Edge {
    /// Rings of tokens that are drawn around those that the mask touches. 1 unless set.
    pub dilation: usize,
    /// How the edge fades into the image. [`Feather::Auto`] unless set.
    pub feather: Feather,
}

impl Default for Edge {
    fn default() -> Self {
        Self { dilation: 1, feather: Feather::default() }
    }
}

/// What to draw: made by [`Request::generate`], [`Request::edit`], [`Request::outpaint`], [`Request::vary`] or
/// [`Request::reconstruct`], and changed by its `with_` methods.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request {
    /// What it is made of.
    pub subject: Subject,
    /// The class, as [`find_label`] takes it. `None` draws without one, by the model's null label.
    pub class: Option<String>,
    /// How many images, and their seeds.
    pub seeds: Seeds,
    /// What is changed of the sampling settings that the model recommends.
    pub sampling: SamplingChanges,
    /// The border of what an edit draws.
    pub edge: Edge,
    /// Pixels of the image whose colour nobody knows, of the image's size: those that are entirely transparent. The
    /// model does not see them: like masked pixels they are filled from known ones before the image is encoded. Where
    /// an edit or an outpainting does not mask them they keep their bytes. `None`: all are known.
    pub unknown: Option<Arc<Mask>>,
}

impl Request {
    /// A request for one image of a subject with seed 0, no class, the settings that the model recommends, and the
    /// default edge.
    pub fn new(subject: Subject) -> Self {
        Self {
            subject,
            class: None,
            seeds: Seeds { first: 0, count: 1 },
            sampling: SamplingChanges::default(),
            edge: Edge::default(),
            unknown: None,
        }
    }

    /// Draws an image from nothing.
    pub fn generate() -> Self {
        Self::new(Subject::Blank)
    }

    /// Repaints the masked pixels of an image ([`Subject::Edit`]), with context 2 and windows along the mask's shape.
    pub fn edit(image: impl Into<Arc<RgbImage>>, mask: impl Into<Arc<Mask>>) -> Self {
        Self::new(Subject::Edit { image: image.into(), mask: mask.into(), context: 2.0, windows: Windows::Shape })
    }

    /// Extends an image ([`Subject::Outpaint`]).
    pub fn outpaint(image: impl Into<Arc<RgbImage>>, sides: Outpaint) -> Self {
        Self::new(Subject::Outpaint { image: image.into(), sides })
    }

    /// Draws a variation of an image ([`Subject::Vary`]).
    pub fn vary(image: impl Into<Arc<RgbImage>>, strength: f32) -> Self {
        Self::new(Subject::Vary { image: image.into(), strength })
    }

    /// Encodes an image of any size, as one window, and decodes it: what the model's tokens can hold of it. Needs no
    /// class.
    pub fn reconstruct(image: impl Into<Arc<RgbImage>>) -> Self {
        Self::vary(image, 0.0)
    }

    /// With a class: its name, an unambiguous beginning of it, its index or its id, as [`find_label`] takes it.
    #[must_use]
    pub fn with_class(mut self, class: impl Into<String>) -> Self {
        self.class = Some(class.into());
        self
    }

    /// With this seed for the first image.
    #[must_use]
    pub fn with_seed(mut self, first: u64) -> Self {
        self.seeds.first = first;
        self
    }

    /// With this number of images, 1 to [`MAX_COUNT`].
    #[must_use]
    pub fn with_count(mut self, count: usize) -> Self {
        self.seeds.count = count;
        self
    }

    /// With these sampling settings, a whole [`Sampling`] or some [`SamplingChanges`].
    #[must_use]
    pub fn with_sampling(mut self, sampling: impl Into<SamplingChanges>) -> Self {
        self.sampling = sampling.into();
        self
    }

    /// With this many steps.
    #[must_use]
    pub fn with_steps(mut self, steps: usize) -> Self {
        self.sampling.steps = Some(steps);
        self
    }

    /// With this scale of classifier-free guidance; 0 is none.
    #[must_use]
    pub fn with_guidance(mut self, scale: f32) -> Self {
        self.sampling.guidance = Some(scale);
        self
    }

    /// With this many rings of tokens drawn around those that the mask touches.
    #[must_use]
    pub fn with_dilation(mut self, rings: usize) -> Self {
        self.edge.dilation = rings;
        self
    }

    /// With this feather.
    #[must_use]
    pub fn with_feather(mut self, feather: Feather) -> Self {
        self.edge.feather = feather;
        self
    }

    /// With this context, for [`Subject::Edit`]; other subjects have none.
    #[must_use]
    pub fn with_context(mut self, context: f32) -> Self {
        if let Subject::Edit { context: own, .. } = &mut self.subject {
            *own = context;
        }
        self
    }

    /// With these pixels of unknown colour ([`Request::unknown`]), as [`SourceImage::transparent`] gives them.
    ///
    /// [`SourceImage::transparent`]: maskgit_image::SourceImage::transparent
    #[must_use]
    pub fn with_unknown(mut self, pixels: impl Into<Arc<Mask>>) -> Self {
        self.unknown = Some(pixels.into());
        self
    }

    /// With windows that lie so over the mask, for [`Subject::Edit`]; other subjects have no choice.
    #[must_use]
    pub fn with_windows(mut self, windows: Windows) -> Self {
        if let Subject::Edit { windows: own, .. } = &mut self.subject {
            *own = windows;
        }
        self
    }

    /// What the request means for a model; every value is checked.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](maskgit_core::ErrorKind::Request): an unknown class, no class for a model that has no null
    /// label, a count, a sampling setting, a feather, a context or a strength out of range, guidance for a model
    /// without a null label, an edit for a model without an encoder, a mask (of what is edited or unknown) of another
    /// size than the image. The message says which value is wrong and what it may be.
    pub fn resolve(&self, manifest: &Manifest) -> Result<Resolved> {
        let label = self.class.as_deref().map(|class| find_label(manifest, class)).transpose()?;
        let Seeds { count, .. } = self.seeds;
        if count == 0 || count > MAX_COUNT {
            return Err(Error::request(format!("the count must be 1 to {MAX_COUNT}, not {count}")));
        }
        self.check_subject()?;
        self.edge.feather.check()?;
        if !matches!(self.subject, Subject::Blank) && manifest.graphs.encoder.is_none() {
            return Err(Error::request("this model has no encoder: it can draw but not edit"));
        }
        let mut sampling = manifest.sampling.with(&self.sampling);
        if let Some(k) = sampling.top_k.filter(|&k| k > manifest.codes) {
            return Err(Error::request(format!("top_k is {k}; the model has {} codes", manifest.codes)));
        }
        sampling.validate()?;
        if label.is_none() {
            if self.draws() && manifest.null_label.is_none() {
                return Err(Error::request(
                    "this model cannot draw without a class, as it has no null label: give a class",
                ));
            }
            // Guidance would compare the null label with itself.
            sampling.guidance = 0.0;
        }
        if sampling.guidance != 0.0 && manifest.null_label.is_none() {
            return Err(Error::request("this model has no null label, so it cannot be guided: set guidance to 0"));
        }
        Ok(Resolved { label, sampling })
    }

    /// Whether any token is drawn.
    fn draws(&self) -> bool {
        !matches!(self.subject, Subject::Vary { strength, .. } if strength == 0.0)
    }

    fn check_subject(&self) -> Result<()> {
        let image = match &self.subject {
            Subject::Blank => None,
            Subject::Edit { image, .. } | Subject::Outpaint { image, .. } | Subject::Vary { image, .. } => Some(image),
        };
        if let (Some(image), Some(unknown)) = (image, &self.unknown) {
            unknown.check_size_of(image)?;
        }
        match &self.subject {
            Subject::Blank => Ok(()),
            Subject::Edit { image, mask, context, .. } => {
                mask.check_size_of(image)?;
                if !(1.0..=MAX_CONTEXT).contains(context) {
                    return Err(Error::request(format!("the context is {context}; it must be 1 to {MAX_CONTEXT}")));
                }
                Ok(())
            }
            Subject::Outpaint { image, sides } => sides.extent(image.width(), image.height()).map(drop),
            Subject::Vary { strength, .. } => {
                if !(0.0..=1.0).contains(strength) {
                    return Err(Error::request(format!("the strength is {strength}; it must be 0 to 1")));
                }
                Ok(())
            }
        }
    }
}

/// What a [`Request`] means for a model.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Resolved {
    /// The index of the class among the manifest's labels; `None`: it is drawn without one.
    pub label: Option<usize>,
    /// The sampling settings.
    pub sampling: Sampling,
}
