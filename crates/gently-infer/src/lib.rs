//! Running models: one plan, many sequences.
//!
//! Here: [`Plan`], a model lowered once into fused steps over packed weights; [`State`], what a sequence has read, in
//! pages that forks share; [`PrefixCache`]; [`Grammar`]s that texts are held to; the [`Engine`], which batches requests of any age, streams their tokens, and
//! gives each the same tokens whatever runs beside it; and [`Encoder`], the same steps over whole documents, for
//! embeddings. Not here: text (see `gently-text`), HTTP, and how a token is chosen from logits
//! ([`gently_models::sampling`]).
//!
//! ```
//! use gently_infer::{Engine, EngineOptions, Plan, PlanOptions, Request};
//! use gently_models::{Decoder, DecoderConfig};
//! # use gently_tensor::{Device, Rng};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let cfg = DecoderConfig { vocab: 16, layers: 1, heads: 2, width: 8, ..DecoderConfig::named("gpt2")? };
//! # let model = Decoder::new(&cfg, &Rng::new(0), &Device::Cpu)?;
//! let engine = Engine::new(Plan::new(&model, PlanOptions::default())?, EngineOptions::default());
//! for token in engine.submit(Request { max_tokens: 5, ..Request::new(vec![1, 2, 3]) })? {
//!     println!("{}", token?.id);
//! }
//! # Ok(()) }
//! ```
//!
//! Shape letters: N rows of a pass (tokens of all its sequences), C channels, H heads, Hk key heads, D head width,
//! M hidden width of the MLP, V vocabulary.
#![forbid(unsafe_code)]

mod constraint;
mod encoder;
mod engine;
mod error;
mod matrix;
mod pass;
mod plan;
mod pooling;
mod positions;
mod prefix;
mod schedule;
mod search;
mod speculate;
mod state;
#[cfg(test)]
mod testing;
mod tune;
mod weights;
mod work;

pub use constraint::{Constraint, ConstraintError, Grammar, Grammars, Guide, Kind};
pub use encoder::Encoder;
pub use engine::{Engine, EngineOptions, Load, Stream};
pub use error::{Error, Failure, Result, check_logits};
pub use gently_kernels::kv::Elem;
pub use plan::{Piece, Plan, PlanOptions, Wanted};
pub use pooling::{Pooling, unit_length};
pub use prefix::PrefixCache;
pub use schedule::{End, Event, Request, Scheduler, Ticket, Token};
pub use search::{BeamOptions, ContrastiveOptions, Ends, Hypothesis, beam_search, contrastive_search};
pub use speculate::Lookup;
pub use state::State;
pub use work::Work;
