//! What holds for all sampling settings and all changes of them.

use maskgit_core::*;
use proptest::prelude::*;

fn cases(usual: u32) -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if asked { config } else { ProptestConfig { cases: usual, ..config } }
}

fn schedule() -> impl Strategy<Value = Schedule> {
    prop_oneof![
        prop::sample::select(vec![
            Schedule::Linear,
            Schedule::Square,
            Schedule::Cubic,
            Schedule::Sqrt,
            Schedule::Cosine,
            Schedule::Log,
            Schedule::Exp,
            Schedule::Arccos,
        ]),
        (f32::MIN_POSITIVE..1e30).prop_map(Schedule::Power),
    ]
}

fn sampler() -> impl Strategy<Value = Sampler> {
    prop::sample::select(vec![
        Sampler::Confidence,
        Sampler::ConfidenceRemask,
        Sampler::PredictorCorrector,
        Sampler::Halton,
        Sampler::HaltonRedraw,
    ])
}

fn scale() -> impl Strategy<Value = f32> {
    prop_oneof![Just(0f32), Just(1.0), 0f32..=1e6, f32::MIN_POSITIVE..1.0]
}

/// Valid settings.
fn settings() -> impl Strategy<Value = Sampling> {
    (
        (1..=4096usize, schedule(), sampler(), any::<prop::sample::Index>()),
        (scale(), scale(), prop::option::of(scale()), scale(), any::<bool>()),
        (prop::option::of(1..usize::MAX), 0f32..1.0, f32::MIN_POSITIVE..=1.0),
    )
        .prop_map(|((steps, schedule, sampler, start), (choice, temperature, last, guidance, ramp), rest)| {
            let mut settings = Sampling::default();
            settings.steps = steps;
            settings.schedule = schedule;
            settings.sampler = sampler;
            settings.start_iter = start.index(steps);
            settings.choice_temperature = choice;
            settings.temperature = temperature;
            settings.final_temperature = last;
            settings.guidance = guidance;
            settings.guidance_ramp = ramp;
            (settings.top_k, settings.corrector_share, settings.corrector_first) = rest;
            settings
        })
}

/// Changes: each setting of `settings` with one half of the chances.
fn changes() -> impl Strategy<Value = SamplingChanges> {
    (settings(), any::<u16>()).prop_map(|(settings, kept)| {
        let mut changes = SamplingChanges::from(settings);
        let mut keeps = (0..).map(|bit| kept >> bit & 1 == 1);
        macro_rules! thin {
            ($($field:ident)*) => {$(
                if !keeps.next().unwrap_or(true) {
                    changes.$field = None;
                }
            )*};
        }
        thin!(steps schedule sampler choice_temperature temperature final_temperature top_k guidance guidance_ramp
            start_iter corrector_share corrector_first);
        changes
    })
}

proptest! {
    #![proptest_config(cases(1000))]

    /// What is written is read again as it was, to the bit.
    #[test]
    fn settings_and_changes_are_read_as_written(settings in settings(), changes in changes()) {
        settings.validate().expect("valid settings");
        let text = serde_json::to_string(&settings).expect("json");
        prop_assert_eq!(serde_json::from_str::<Sampling>(&text).expect("its own text"), settings, "{}", text);
        // Settings are changes too, but for what they leave out because it is as always.
        let text = serde_json::to_string(&changes).expect("json");
        prop_assert_eq!(serde_json::from_str::<SamplingChanges>(&text).expect("its own text"), changes, "{}", text);
    }

    /// A setting that is given is taken; one that is not stays, but for the two that come with another one.
    #[test]
    fn changes_change_what_they_name(before in settings(), changes in changes()) {
        let after = before.with(&changes);
        macro_rules! taken {
            ($($field:ident)*) => {$(
                prop_assert_eq!(after.$field, changes.$field.unwrap_or(before.$field), "{}", stringify!($field));
            )*};
        }
        taken!(steps sampler choice_temperature temperature guidance guidance_ramp start_iter corrector_share
            corrector_first);
        let top_k = match changes.top_k {
            None => before.top_k,
            Some(0) => None,
            Some(k) => Some(k),
        };
        prop_assert_eq!(after.top_k, top_k);
        let comes_along =
            if after.sampler == before.sampler { before.schedule } else { after.sampler.published_schedule() };
        prop_assert_eq!(after.schedule, changes.schedule.unwrap_or(comes_along));
        let stays = if changes.temperature.is_some() { None } else { before.final_temperature };
        prop_assert_eq!(after.final_temperature, changes.final_temperature.or(stays));
        // Once more is no other change, and none is none.
        prop_assert_eq!(after.with(&changes), after);
        prop_assert_eq!(before.with(&SamplingChanges::default()), before);
        prop_assert_eq!(before.with(&after.into()), after);
    }

    /// Names are read as they are written, and no other text is one.
    #[test]
    fn names_are_read_as_written(schedule in schedule(), sampler in sampler(), other in "[a-z:. -]{0,12}") {
        prop_assert_eq!(schedule.to_string().parse::<Schedule>().expect("its own name"), schedule);
        prop_assert_eq!(sampler.to_string().parse::<Sampler>().expect("its own name"), sampler);
        if let Ok(schedule) = other.parse::<Schedule>() {
            prop_assert_eq!(schedule.to_string(), &*other);
        }
        if let Ok(sampler) = other.parse::<Sampler>() {
            prop_assert_eq!(sampler.to_string(), &*other);
        }
    }

    /// From the first step's temperature to the last one's, never outside of the two.
    #[test]
    fn temperatures_lie_between_the_first_and_the_last(settings in settings(), at in any::<prop::sample::Index>()) {
        let (first, last) = (settings.temperature, settings.final_temperature.unwrap_or(settings.temperature));
        prop_assert_eq!(settings.temperature_at(0), first);
        if settings.steps > 1 {
            prop_assert_eq!(settings.temperature_at(settings.steps - 1), last);
        }
        let between = settings.temperature_at(at.index(settings.steps));
        let slack = first.max(last) * 1e-6;
        prop_assert!((first.min(last) - slack..=first.max(last) + slack).contains(&between), "{}", between);
    }
}
