//! Several clusters as one: models are pushed to all of them, jobs go to the shortest queue.

use crate::client::Client;
use crate::config::Cluster;
use crate::fault::{Blame, Fault, Result};
use crate::names::Id;
use std::path::Path;
use std::time::Duration;

/// The clusters that a client may use, in the order in which `cluster.toml` names them: its own servers, then its replicas.
pub struct Fleet {
    clients: Vec<Client>,
}

impl Fleet {
    /// Of a `cluster.toml`, with the replicas that it names; so long until a server must have answered a call.
    ///
    /// # Errors
    /// Those of the files; replicas that name replicas, or are for another client.
    pub fn read(path: &Path, patience: Duration) -> Result<Self> {
        let own = Cluster::read(path)?;
        let mut clients: Vec<Client> = vec![];
        let mut all = vec![(path.to_path_buf(), own.clone())];
        for replica in &own.replicas {
            let place = own.folder.join(replica);
            let cluster = Cluster::read(&place)?;
            if !cluster.replicas.is_empty() {
                let why = "a replica names replicas; name all of them in one file";
                return Err(Fault::usage(why).at(&place.display().to_string()));
            }
            all.push((place, cluster));
        }
        for (place, cluster) in all {
            let mut client = Client::new(&cluster)?;
            client.patience = patience;
            if let Some(first) = clients.first().filter(|c| c.name() != client.name()) {
                let why =
                    format!("its certificate is {}'s, and that of the first cluster {}'s", client.name(), first.name());
                return Err(Fault::usage(why).at(&place.display().to_string()));
            }
            clients.push(client);
        }
        Ok(Self { clients })
    }

    /// A client of each cluster.
    #[must_use]
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// Jobs that wait at each cluster; `None` where nobody answers.
    ///
    /// # Errors
    /// When none of them answers.
    pub fn waiting(&self) -> Result<Vec<Option<usize>>> {
        if self.clients.len() == 1 {
            return Ok(vec![Some(0)]);
        }
        let asked: Vec<Result<usize>> = self.clients.iter().map(|c| c.about().map(|a| a[0].waiting)).collect();
        match asked.iter().find(|a| a.is_err()) {
            Some(Err(e)) if asked.iter().all(Result::is_err) => Err(e.clone()),
            _ => Ok(asked.into_iter().map(Result::ok).collect()),
        }
    }

    /// The client of the cluster that has a job; where there is just one it is not asked.
    ///
    /// # Errors
    /// When none of them has it; that of the first cluster which does not answer, if one does not.
    pub fn holder(&self, job: Id) -> Result<&Client> {
        if let [one] = &self.clients[..] {
            return Ok(one);
        }
        let mut failed: Option<Fault> = None;
        for client in &self.clients {
            match client.job(job) {
                Ok(_) => return Ok(client),
                Err(e) if failed.as_ref().is_none_or(|f| f.kind == Blame::Unknown) => failed = Some(e),
                Err(_) => {}
            }
        }
        Err(failed.unwrap_or_else(|| Fault::unknown("there is no such job")))
    }
}

/// Where the next job goes: to the shortest queue, counting what was given to each since it was asked. `None` when there is none.
#[must_use]
pub fn shortest(waiting: &[Option<usize>], given: &[usize]) -> Option<usize> {
    let known = waiting.iter().zip(given).enumerate();
    known.filter_map(|(i, (w, g))| w.map(|w| (w + g, i))).min().map(|(_, i)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_go_to_the_shortest_queue() {
        let waiting = [Some(5), None, Some(3)];
        let mut given = [0; 3];
        let order: Vec<Option<usize>> = (0..6)
            .map(|_| {
                let next = shortest(&waiting, &given);
                next.into_iter().for_each(|i| given[i] += 1);
                next
            })
            .collect();
        assert_eq!(order, [2, 2, 0, 2, 0, 2].map(Some));
        assert_eq!(shortest(&[None], &[0]), None);
    }
}
