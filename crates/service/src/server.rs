//! A server that runs: its ports, its threads, and how it stops.

use crate::config::Server;
use crate::edge::Edge;
use crate::engine::Engine;
use crate::fault::{Fault, Result};
use crate::peers::{Meeting, Peers};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// How often what is old is looked for.
const TIDY: Duration = Duration::from_secs(30);
/// How long runs that are under way are waited for when a server stops.
const FINISH: Duration = Duration::from_secs(60);

/// A server that runs.
pub struct Running {
    /// Where clients reach it.
    pub clients: SocketAddr,
    /// Where its peers reach it.
    pub peers: SocketAddr,
    engine: Arc<Engine>,
    edge: Arc<Edge>,
    end: watch::Sender<bool>,
    runtime: Option<Runtime>,
    threads: Vec<JoinHandle<()>>,
    sessions: Arc<AtomicUsize>,
}

/// Ports that are bound before anything else is done.
pub struct Ports {
    clients: TcpListener,
    peers: TcpListener,
}

impl Ports {
    /// Binds the ports of a server.
    ///
    /// # Errors
    /// When one of them is taken, or no address of this machine.
    pub fn bind(clients: &str, peers: &str) -> Result<Self> {
        let bind = |field: &str, text: &str| {
            let address = crate::config::address(text).map_err(|e| e.at(field))?;
            TcpListener::bind(address).map_err(|e| Fault::usage(format!("{field}: cannot listen at {address}: {e}")))
        };
        Ok(Self { clients: bind("clients", clients)?, peers: bind("peers", peers)? })
    }

    /// Where they are.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn addresses(&self) -> Result<[SocketAddr; 2]> {
        let of = |l: &TcpListener| l.local_addr().map_err(|e| Fault::internal("a port", &e));
        Ok([of(&self.clients)?, of(&self.peers)?])
    }
}

/// Counts a session while it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    Builder::new().name(name.into()).spawn(body).map_err(|e| Fault::internal("no thread can be started", &e))
}

impl Running {
    /// Starts a server.
    ///
    /// # Errors
    /// When its certificate, its store or its ports cannot be used.
    pub fn start(config: Server) -> Result<Self> {
        let ports = Ports::bind(&config.clients, &config.peers)?;
        Self::start_at(config, ports)
    }

    /// Starts a server on ports that are bound already.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub fn start_at(config: Server, ports: Ports) -> Result<Self> {
        config.check()?;
        let [clients, at] = ports.addresses()?;
        let identity = config.identity()?;
        config.look_for_device()?;
        let store = config.open_store()?;
        let peers = Arc::new(Peers::new(&config, identity.clone())?);
        let most_sessions = 2 * config.limits.sessions;
        let engine = Arc::new(Engine::new(config, store, Arc::clone(&peers))?);
        let edge = Arc::new(Edge::new(Arc::clone(&engine), &identity)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(64)
            .thread_name("clients")
            .enable_all()
            .build()
            .map_err(|e| Fault::internal("no thread can be started", &e))?;
        let (end, over) = watch::channel(false);
        let listener = {
            let _in = runtime.enter();
            let made =
                ports.clients.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(ports.clients));
            made.map_err(|e| Fault::internal("the port for clients", &e))?
        };
        runtime.spawn(Arc::clone(&edge).serve(listener, over));
        let sessions: Arc<AtomicUsize> = Arc::default();
        let mut threads = vec![];
        let (following, count) = (Arc::clone(&engine), Arc::clone(&sessions));
        let invited = move |meeting: Meeting| {
            if following.leads() || following.is_stopping() || count.load(Ordering::Acquire) >= most_sessions {
                return false;
            }
            let (engine, counted) = (Arc::clone(&following), Counted::new(&count));
            let started = thread("a session", move || {
                let _counted = counted;
                engine.follow(meeting);
            });
            started.is_ok()
        };
        let listening = Arc::clone(&peers);
        threads.push(thread("peers", move || listening.serve(&ports.peers, Arc::new(invited)))?);
        if engine.leads() {
            let (leading, count) = (Arc::clone(&engine), Arc::clone(&sessions));
            threads.push(thread("the order", move || {
                while let Some(upload) = leading.queue.dispatch() {
                    let (engine, counted) = (Arc::clone(&leading), Counted::new(&count));
                    let started = thread("a session", move || {
                        let _counted = counted;
                        engine.lead(upload);
                    });
                    if let Err(e) = started {
                        leading.queue.ended(upload, Some(e.why));
                    }
                }
            })?);
        }
        let (tidying, mut over) = (Arc::clone(&engine), end.subscribe());
        runtime.spawn(async move {
            while tokio::time::timeout(TIDY, over.wait_for(|o| *o)).await.is_err() {
                let engine = Arc::clone(&tidying);
                let tidied = tokio::task::spawn_blocking(move || engine.tidy()).await;
                if let Ok(Err(e)) = tidied {
                    tracing::error!("the store cannot be tidied: {e}");
                }
            }
        });
        let runtime = Some(runtime);
        Ok(Self { clients, peers: at, engine, edge, end, runtime, threads, sessions })
    }

    /// What it has.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Reads its certificate again: connections from now on have the new one.
    ///
    /// # Errors
    /// When it cannot be used; the old one stays.
    pub fn renew(&self) -> Result<()> {
        let identity = self.engine.config.identity()?;
        self.edge.renew(&identity)?;
        self.engine.peers.renew(identity);
        tracing::info!("the certificate was read again");
        Ok(())
    }

    /// Stops: nothing new is begun, runs under way are finished, jobs that wait stay in the store.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        self.engine.stop();
        let until = Instant::now() + FINISH;
        while self.sessions.load(Ordering::Acquire) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.end.send(true);
        self.engine.peers.stop(self.peers);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        runtime.shutdown_timeout(Duration::from_secs(3));
        // Threads that end by themselves, of handshakes and of sessions that are over, hold the store until they do: but for them there are this
        // server and its port.
        let until = Instant::now() + FINISH;
        while Arc::strong_count(&self.engine) > 2 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.halt();
    }
}
