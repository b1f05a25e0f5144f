//! The ownership thread: from its start to its end.

mod at_work;

use super::addresses::{self, Job, Jobs};
use super::hands::{Book, Hands, SharedBook, let_go};
use super::places::{Spot, can_serve, number};
use super::{Founder, Input, Setup, Surroundings, Tell, Told, View, VipState, VipView, Wishes, kept};
use crate::engine::fence::FenceWords;
use crate::sys;
use at_work::AtWork;
use netft_common::wire;
use netft_consensus::{Consensus, Place, SNAPSHOT_ENTRIES, Settings};
use netft_core::ownership::{Seen, State};
use netft_core::types::{Nanos, NodeId, NodeState};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// Nodes that nobody has met yet are named after this.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Runner {
    own: NodeId,
    cluster_id: u32,
    keyring: netft_core::keys::Keyring,
    folder: PathBuf,
    adapter: String,
    detection_ns: Nanos,
    hands: Option<Hands>,
    words: FenceWords,
    book: SharedBook,
    jobs: Jobs,
    inputs: mpsc::Receiver<Input>,
    tell: Tell,
    view: Arc<Mutex<View>>,
    wishes: Wishes,
    surroundings: Surroundings,
    states: BTreeMap<NodeId, NodeState>,
    started_ns: Nanos,
    leaving: Option<Leaving>,
}

/// This node gives everything away.
struct Leaving {
    /// Who wants to know when that is done.
    done: Option<oneshot::Sender<()>>,
    until: Instant,
}

/// What comes of an input.
enum Then {
    GoOn,
    Stop,
}

impl Runner {
    pub(super) fn new(
        setup: Setup,
        inputs: mpsc::Receiver<Input>,
        tell: Tell,
        view: Arc<Mutex<View>>,
    ) -> io::Result<Self> {
        let folder = setup.folder;
        let [words, of_book, of_hands] = setup.words;
        let book = Arc::new(Mutex::new(Book::new(of_book, kept::load_addresses(&folder))));
        let (jobs, _) = addresses::start(Arc::clone(&book), folder.clone(), tell.clone())?;
        let runner = Self {
            own: setup.own,
            cluster_id: setup.cluster_id,
            keyring: setup.keyring,
            hands: Some(Hands::new(of_hands, Arc::clone(&book), jobs.clone())),
            folder,
            adapter: setup.adapter,
            detection_ns: setup.detection_ns,
            words,
            book,
            jobs,
            inputs,
            tell,
            view,
            wishes: setup.wishes,
            surroundings: setup.surroundings,
            states: setup.states,
            started_ns: sys::boottime(),
            leaving: None,
        };
        runner.pass_spots();
        Ok(runner)
    }

    pub(super) async fn run(mut self) {
        if let Some(founders) = self.founders().await {
            match self.start(founders).await {
                Ok(Some(consensus)) => {
                    let mut at_work = AtWork::new(consensus);
                    at_work.run(&mut self).await;
                    at_work.consensus.stop().await;
                }
                Ok(None) => (),
                Err(error) => self.stay_out(error).await,
            }
        }
        let_go(&self.words, &self.book, &self.jobs);
    }

    /// Own addresses that VIPs may be next to.
    fn own_spots(&self) -> &[Spot] {
        let own = self.surroundings.nodes.values().find(|node| node.id == Some(self.own));
        own.map_or(&[], |own| &own.founder.spots)
    }

    fn pass_spots(&self) {
        self.jobs.send(Job::Spots(self.own_spots().to_vec()));
    }

    fn id_of(&self, name: &str) -> Option<NodeId> {
        self.surroundings.nodes.get(name)?.id
    }

    fn name_of(&self, node: NodeId) -> String {
        let known = self.surroundings.nodes.iter().find(|(_, facts)| facts.id == Some(node));
        known.map_or_else(|| format!("node {node}"), |(name, _)| name.clone())
    }

    /// Takes in what needs no consensus; the rest is given back.
    fn take_in(&mut self, input: Input) -> Option<Input> {
        match input {
            Input::Peer(node, state) => drop(self.states.insert(node, state)),
            Input::Surroundings(surroundings) => {
                self.surroundings = surroundings;
                self.pass_spots();
            }
            Input::Wishes(wishes) => self.wishes = wishes,
            other => return Some(other),
        }
        None
    }

    /// While there is no consensus: says so to whoever wants something.
    fn put_off(&mut self, input: Input, why: &str) -> Then {
        match self.take_in(input) {
            Some(Input::Stop) => return Then::Stop,
            Some(Input::Move { done, .. } | Input::Remove { done, .. }) => {
                drop(done.send(Err(why.to_owned())))
            }
            Some(Input::Leave(done)) => drop(done.send(())),
            _ => (),
        }
        Then::GoOn
    }

    /// Who founds the cluster: as it was once written down, or all that are configured, once each has been met. `None` = stopped.
    async fn founders(&mut self) -> Option<BTreeMap<NodeId, Place>> {
        if let Some(founders) = kept::load_founders(&self.folder) {
            return Some(founders);
        }
        let mut say_at = Some(Instant::now() + PATIENCE);
        loop {
            let unmet: Vec<String> = self
                .surroundings
                .nodes
                .iter()
                .filter(|(_, node)| !node.met)
                .map(|(name, _)| name.clone())
                .collect();
            if unmet.is_empty() {
                let founders: BTreeMap<NodeId, Founder> = self
                    .surroundings
                    .nodes
                    .values()
                    .filter_map(|node| Some((node.id?, node.founder.clone())))
                    .collect();
                let places = number(&founders);
                match kept::store_founders(&self.folder, &places) {
                    Ok(()) => return Some(places),
                    Err(error) => self.tell.send(Told::Warning(error.to_string())),
                }
            }
            let why = format!(
                "nobody owns a VIP before every configured node has been met once, and {} has not been: start it, or take it out of the configuration",
                unmet.join(", ")
            );
            self.show_waiting(&why);
            let input = match say_at {
                Some(at) => timeout_at(at, self.inputs.recv()).await,
                None => Ok(self.inputs.recv().await),
            };
            match input {
                Ok(Some(input)) => {
                    if matches!(self.put_off(input, &why), Then::Stop) {
                        return None;
                    }
                }
                Ok(None) => return None,
                Err(_) => {
                    say_at = None;
                    self.tell.send(Told::Warning(why));
                }
            }
        }
    }

    fn show_waiting(&self, why: &str) {
        let unknown = self.wishes.vips.iter().map(|(name, wish)| VipView {
            name: name.clone(),
            addresses: wish.addresses.clone(),
            owner: None,
            epoch: 0,
            state: VipState::Unknown,
            since_ns: None,
            why: None,
        });
        let view = View { trouble: Some(why.to_owned()), vips: unknown.collect(), ..View::default() };
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }

    /// `None` = stopped meanwhile.
    async fn start(&mut self, founders: BTreeMap<NodeId, Place>) -> Result<Option<Consensus>, String> {
        let listener = loop {
            match listen(&self.adapter) {
                Ok(listener) => break listener,
                Err(error) => {
                    let why = format!(
                        "cannot listen on TCP port {} of {}: {error}; is another program using it? Tried again every 0.5 s",
                        wire::PORT,
                        self.adapter
                    );
                    self.show_waiting(&why);
                    self.tell.send(Told::Warning(why.clone()));
                    let again = Instant::now() + Duration::from_millis(500);
                    while let Ok(input) = timeout_at(again, self.inputs.recv()).await {
                        let Some(input) = input else { return Ok(None) };
                        if matches!(self.put_off(input, &why), Then::Stop) {
                            return Ok(None);
                        }
                    }
                }
            }
        };
        let Some(hands) = self.hands.take() else { return Ok(None) };
        let settings = Settings {
            own: self.own,
            cluster_id: self.cluster_id,
            keyring: self.keyring.clone(),
            folder: self.folder.clone(),
            founders,
            detection_ns: self.detection_ns,
            snapshot_entries: SNAPSHOT_ENTRIES,
            applied: self.words.applied(),
            owned: self.words.owned(),
        };
        let consensus = Consensus::start(settings, listener, Box::new(hands)).await;
        Ok(Some(consensus.map_err(|error| error.to_string())?))
    }

    /// There is no consensus on this node until it is restarted: it keeps nothing, and says why.
    async fn stay_out(&mut self, why: String) {
        let_go(&self.words, &self.book, &self.jobs);
        self.tell.send(Told::Warning(why.clone()));
        self.show_waiting(&why);
        while let Some(input) = self.inputs.recv().await {
            if matches!(self.put_off(input, &why), Then::Stop) {
                return;
            }
        }
    }

    fn seen(&self, node: NodeId) -> Seen {
        let up = match self.states.get(&node) {
            _ if node == self.own => self.leaving.is_none(),
            Some(state) => *state == NodeState::Up,
            None => false,
        };
        if up { Seen::Up } else { Seen::Down }
    }

    /// On which client networks a node can serve, as far as its addresses and links tell.
    fn networks(&self, state: &State, node: NodeId) -> u64 {
        let facts = self.surroundings.nodes.values().find(|facts| facts.id == Some(node));
        let Some(facts) = facts else { return 0 };
        let served = state.vips.values().filter(|vip| can_serve(&facts.founder.spots, &vip.settings));
        served.fold(0, |networks, vip| networks | 1 << (vip.settings.network & 63))
    }
}

/// A listener that takes connections only by `netft0`, whatever addresses that has.
fn listen(adapter: &str) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind_device(Some(adapter.as_bytes()))?;
    socket.bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), wire::PORT))?;
    socket.listen(64)
}
