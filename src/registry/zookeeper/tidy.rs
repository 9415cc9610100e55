//! Taking a subtree away again.

use std::time::Duration;

use zookeeper_client::{Client, Error};

use super::ConnectOptions;

/// Deletes a node and everything below it, deepest first; what is gone already is no error.
///
/// Takes at most `limit`. Not atomic: whoever adds nodes meanwhile makes it fail.
pub async fn remove_tree(
    options: &ConnectOptions,
    path: &str,
    limit: Duration,
) -> Result<(), RemoveTreeError> {
    let fail = |reason: String| RemoveTreeError {
        path: path.to_owned(),
        address: options.hosts().to_owned(),
        reason,
    };
    let work = async {
        let client = Client::connector()
            .with_session_timeout(options.session_timeout)
            .connect(&options.connect)
            .await
            .map_err(|error| fail(error.to_string()))?;
        remove(&client, path).await.map_err(|error| fail(error.to_string()))
    };
    tokio::time::timeout(limit, work).await.map_err(|_| fail(format!("no answer within {limit:?}")))?
}

/// A subtree that still stands, or of which nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} could not be removed at {address}: {reason}")]
pub struct RemoveTreeError {
    path: String,
    address: String,
    reason: String,
}

async fn remove(client: &Client, root: &str) -> Result<(), Error> {
    let mut found = vec![root.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        match client.list_children(&path).await {
            Ok(children) => found.extend(children.iter().map(|child| format!("{path}/{child}"))),
            Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
    }
    for path in found.iter().rev() {
        match client.delete(path, None).await {
            Ok(()) | Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
