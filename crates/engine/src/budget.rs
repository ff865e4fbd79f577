//! What an import may take. A few bytes of a graph can ask tract for any amount of time and memory, so its steps are
//! counted and timed, and the sizes it works out are looked at before anything of that size is made.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use maskgit_core::{Error, LoadLimits};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::optim::Optimizer;
use tract_onnx::tract_core::optim::{OptimizerSession, TypedPass};

/// Steps of the import for each node of the graph. The graphs of the family take ten to thirty.
const STEPS_PER_NODE: usize = 1000;
/// Steps beside those.
const STEPS: usize = 100_000;

/// What is left for one import.
#[derive(Debug)]
pub(super) struct Budget {
    limits: LoadLimits,
    start: Instant,
    left: AtomicUsize,
}

impl Budget {
    /// For a graph of so many nodes.
    pub(super) fn new(limits: &LoadLimits, nodes: usize) -> Self {
        let steps = nodes.saturating_mul(STEPS_PER_NODE).saturating_add(STEPS);
        Self { limits: limits.clone(), start: Instant::now(), left: AtomicUsize::new(steps) }
    }

    /// One more step: an error when there may be none.
    pub(super) fn step(&self) -> TractResult<()> {
        if self.limits.cancel.is_cancelled() {
            bail!("it was cancelled");
        }
        if self.start.elapsed() > self.limits.time {
            bail!("it took more than {:?}, the time that loading may take", self.limits.time);
        }
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            bail!("the graph takes too many steps to simplify");
        }
        self.left.store(left - 1, Ordering::Relaxed);
        Ok(())
    }

    /// The error of a failed import: that it was cancelled, when it was.
    pub(super) fn error(&self, error: Error) -> Error {
        if self.limits.cancel.is_cancelled() { Error::cancelled() } else { error }
    }

    /// Simplifies a graph as tract does.
    pub(super) fn declutter(self: &Arc<Self>, model: &mut TypedModel) -> TractResult<()> {
        self.optimize(Optimizer::declutter(), model)
    }

    /// Chooses operators that tract runs, as it does.
    pub(super) fn codegen(self: &Arc<Self>, model: &mut TypedModel) -> TractResult<()> {
        let optimizer = self.watched(Optimizer::codegen());
        model.optimize_with_session(&mut optimizer.session())
    }

    fn optimize(self: &Arc<Self>, optimizer: Optimizer, model: &mut TypedModel) -> TractResult<()> {
        self.watched(optimizer).optimize(model)
    }

    fn watched(self: &Arc<Self>, mut optimizer: Optimizer) -> Optimizer {
        let watch = |pass| Box::new(Watched { pass, budget: Arc::clone(self) }) as Box<dyn TypedPass>;
        optimizer.passes = optimizer.passes.into_iter().map(watch).collect();
        optimizer
    }
}

/// A pass whose steps are counted.
#[derive(Clone, Debug)]
struct Watched {
    pass: Box<dyn TypedPass>,
    budget: Arc<Budget>,
}

impl TypedPass for Watched {
    fn reset(&mut self) -> TractResult<()> {
        self.pass.reset()
    }

    fn next(&mut self, session: &mut OptimizerSession, model: &TypedModel) -> TractResult<Option<TypedModelPatch>> {
        self.budget.step()?;
        self.pass.next(session, model)
    }

    fn run_direct(&mut self, model: &mut TypedModel) -> TractResult<bool> {
        self.budget.step()?;
        self.pass.run_direct(model)
    }
}
