//! The address of `demo --stay`: the console of this process, and the page beside it.

use super::error::DemoError;
use super::page;
use super::people::People;
use super::stage::Stage;
use crate::admin::Server;
use crate::config::{Admin, Config};
use crate::status::process::ProcessStatus;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The default of `admin.listen`. If it is in use, the demo takes a free port.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9187);
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// It serves until it is closed.
pub(super) struct Site {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Site {
    /// Listens on `listen`, or else on the default address or a free port, and notes the address in the configuration.
    pub(super) async fn open(
        stage: &Stage,
        listen: Option<SocketAddr>,
        config: &watch::Sender<Config>,
        status: &Arc<ProcessStatus>,
    ) -> Result<Site, DemoError> {
        let router = page::router(People::connect(stage).await?);
        let bind = async |listen: SocketAddr| {
            config.send_modify(|config| config.admin = Some(Admin { listen, token: None }));
            Server::bind_beside(config.subscribe(), status.clone(), router.clone()).await
        };
        let server = match listen {
            Some(listen) => bind(listen).await,
            None => match bind(DEFAULT).await {
                Ok(server) => Ok(server),
                Err(_) => bind(ANY_PORT).await,
            },
        };
        let server = server.map_err(DemoError::Listen)?;
        let address = server.address().ok_or(DemoError::Stalled("the page has no address"))?;
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.run(stop.clone()));
        Ok(Site { address, stop, serving })
    }

    /// The URL of the console.
    pub(super) fn console(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The URL of the page.
    pub(super) fn page(&self) -> String {
        format!("http://{}{}", self.address, page::PATH)
    }

    /// Gives open requests a moment to finish.
    pub(super) async fn close(self) {
        self.stop.cancel();
        let _ = self.serving.await;
    }
}
