mod damping;
mod engine;
mod links;
mod pace;
mod rig;
mod selection;
mod stalls;
mod verdicts;
