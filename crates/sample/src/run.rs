//! The decoding loop.

use maskgit_core::{Error, ErrorKind, Result, Sampling, memory};
use ndarray::{ArrayView3, ArrayViewMut3, Axis};

use super::state::GridState;
use super::step::{Scratch, StepPlan};
use super::{Observe, Outcome, Predict, Row, StepReport, TokenGrid, TokenSpec, halton};

/// Draws every masked token of every token grid: Google's `parallel_decode`, or another sampler, with guidance.
///
/// Each step predicts all masked tokens of a grid at once, draws them, keeps some and masks the rest; the last step
/// keeps all. A grid does not depend on the others. A grid with nothing masked is left as it is.
///
/// # Errors
///
/// Kind [`Request`](maskgit_core::ErrorKind::Request) for settings or tokens out of range,
/// [`Cancelled`](maskgit_core::ErrorKind::Cancelled) when `observe` says so,
/// [`Engine`](maskgit_core::ErrorKind::Engine) when logits are no distribution, and whatever `predict` gives. The grids
/// then hold what was known so far, and `mask_id` elsewhere.
pub fn run(
    spec: &TokenSpec,
    grids: &mut [TokenGrid],
    settings: &Sampling,
    predict: &mut dyn Predict,
    observe: Observe<'_>,
) -> Result<Outcome> {
    run_with(&mut Buffers::default(), spec, grids, settings, predict, observe)
}

/// The memory of a run, for a caller that has many: used again, it does not fall to pieces between them.
#[derive(Default)]
pub struct Buffers {
    logits: Vec<f32>,
    scratch: Scratch,
}

/// As [`run`], in memory of the caller's.
///
/// # Errors
///
/// As [`run`].
pub fn run_with(
    buffers: &mut Buffers,
    spec: &TokenSpec,
    grids: &mut [TokenGrid],
    settings: &Sampling,
    predict: &mut dyn Predict,
    observe: Observe<'_>,
) -> Result<Outcome> {
    settings.validate()?;
    check(spec, grids)?;
    let order = if settings.sampler.is_halton() { halton::order(spec.grid) } else { Vec::new() };
    let mut states: Vec<GridState> = grids.iter().map(|grid| GridState::new(spec, &order, grid)).collect();
    let mut outcome = Outcome { masked: vec![Vec::new(); grids.len()] };
    let Buffers { logits, scratch } = buffers;

    for step in settings.start_iter..settings.steps {
        let plan = StepPlan::new(step, settings);
        let active: Vec<usize> = (0..grids.len()).filter(|&i| states[i].is_active(&plan)).collect();
        let rows = rows(&plan, &active, grids, &states);
        let predicted = predict_rows(spec, &rows, predict, logits)?;
        for (place, &i) in active.iter().enumerate() {
            let conditional = predicted.index_axis(Axis(0), place);
            let unconditional = plan.is_guided().then(|| predicted.index_axis(Axis(0), active.len() + place));
            states[i].step(&plan, (conditional, unconditional), grids[i].seed, scratch)?;
            states[i].write(&mut grids[i].tokens, spec.mask_id);
        }
        for (counts, state) in outcome.masked.iter_mut().zip(&states) {
            counts.push(state.masked());
        }
        if observe(&StepReport { step, steps: settings.steps, grids: &states }).is_break() {
            return Err(Error::cancelled());
        }
    }
    Ok(outcome)
}

/// The forward passes of a step: all with the label, then, with guidance, all with the null label.
fn rows<'a>(plan: &StepPlan, active: &[usize], grids: &'a [TokenGrid], states: &'a [GridState]) -> Vec<Row<'a>> {
    let passes = if plan.is_guided() { &[false, true][..] } else { &[false] };
    let row = |unconditional: bool, i: usize| Row {
        grid: i,
        tokens: &grids[i].tokens,
        wanted: states[i].wanted(plan),
        unconditional,
    };
    passes.iter().flat_map(|&pass| active.iter().map(move |&i| row(pass, i))).collect()
}

/// Runs the model for the rows; the logits are `[rows, N, K]`, in memory that the next step uses again.
fn predict_rows<'a>(
    spec: &TokenSpec,
    rows: &[Row<'_>],
    predict: &mut dyn Predict,
    logits: &'a mut Vec<f32>,
) -> Result<ArrayView3<'a, f32>> {
    let shape = (rows.len(), spec.grid.len(), spec.codes);
    resize(logits, rows.len(), shape.1 * shape.2)?;
    if !rows.is_empty() {
        let out = ArrayViewMut3::from_shape(shape, logits).map_err(|e| Error::internal("logits").with_source(e))?;
        predict.logits(rows, out)?;
    }
    ArrayView3::from_shape(shape, logits).map_err(|e| Error::internal("logits").with_source(e))
}

/// Makes room for `rows` times `size` logits; an error when there is no memory for so many.
fn resize(logits: &mut Vec<f32>, rows: usize, size: usize) -> Result<()> {
    let total = rows.checked_mul(size);
    let room = total.map(|total| memory::reserve(logits, total.saturating_sub(logits.len())));
    match (total, room) {
        (Some(total), Some(Ok(()))) => {
            logits.resize(total, 0.0);
            Ok(())
        }
        _ => Err(Error::new(
            ErrorKind::Memory,
            format!("out of memory: the logits of {rows} passes, {size} numbers each; draw fewer images at once"),
        )),
    }
}

/// Checks the specification and the tokens.
fn check(spec: &TokenSpec, grids: &[TokenGrid]) -> Result<()> {
    let n = spec.grid.len();
    if n == 0 || spec.codes == 0 || (n as u64).checked_mul(spec.codes as u64).is_none_or(|size| size > 1 << 40) {
        return Err(Error::request(format!("a grid of {n} tokens with {} codes cannot be drawn", spec.codes)));
    }
    let is_code = |token: i64| usize::try_from(token).is_ok_and(|token| token < spec.codes);
    if is_code(spec.mask_id) {
        return Err(Error::request(format!("the mask id {} is one of the {} codes", spec.mask_id, spec.codes)));
    }
    for (i, grid) in grids.iter().enumerate() {
        if grid.tokens.len() != n {
            return Err(Error::request(format!("token grid {i} has {} tokens, not {n}", grid.tokens.len())));
        }
        if let Some(position) = grid.tokens.iter().position(|&t| t != spec.mask_id && !is_code(t)) {
            return Err(Error::request(format!(
                "token grid {i}: token {} at position {position} is neither a code (0 to {}) nor the mask id {}",
                grid.tokens[position],
                spec.codes - 1,
                spec.mask_id
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_that_no_memory_holds_are_an_error() {
        let mut logits = Vec::new();
        for (rows, size) in [(3, usize::MAX / 2), (1, usize::MAX), (1, isize::MAX as usize)] {
            let error = resize(&mut logits, rows, size).expect_err("too many");
            assert_eq!(error.kind(), ErrorKind::Memory, "{rows} x {size}");
        }
        resize(&mut logits, 2, 6).expect("little");
        assert_eq!(logits.len(), 12);
        resize(&mut logits, 1, 6).expect("less");
        assert_eq!(logits.len(), 6);
    }
}
