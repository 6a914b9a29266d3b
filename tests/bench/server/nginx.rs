//! nginx, tuned as for serving files that never change.

use std::{path::Path, process::Command};

use super::{Certificate, Started, await_start, free_address, listens, log_to, make_folder, write};
use crate::{failure::Failure, process::Process};

/// Serves `files`; what is put below `/pushed/` is stored beside it, through a temporary file on the same disk.
pub(super) fn start(
    folder: &Path,
    files: &Path,
    certificate: Option<&Certificate>,
) -> Result<Started, Failure> {
    for name in ["blobs", "manifests", "pushed"] {
        make_folder(&files.join(name))?;
    }
    let address = free_address()?;
    let listen = match certificate {
        None => format!("listen {address};"),
        Some(Certificate { certificate, key }) => format!(
            "listen {address} ssl; ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {};",
            certificate.display(),
            key.display()
        ),
    };
    let folder_text = folder.display();
    let config = format!(
        "daemon off; worker_processes auto; pid {folder_text}/pid; error_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
           access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;\n\
           keepalive_requests 1000000000; keepalive_timeout 1h;\n\
           open_file_cache max=10000 inactive=1h; open_file_cache_valid 1h;\n\
           client_body_temp_path {folder_text}/body; proxy_temp_path {folder_text}/proxy;\n\
           fastcgi_temp_path {folder_text}/fastcgi; uwsgi_temp_path {folder_text}/uwsgi;\n\
           scgi_temp_path {folder_text}/scgi;\n\
           server {{\n\
             {listen}\n\
             root {};\n\
             default_type application/octet-stream;\n\
             location /manifests/ {{ default_type application/vnd.oci.image.manifest.v1+json; }}\n\
             location /pushed/ {{ dav_methods PUT; client_max_body_size 0; client_body_buffer_size 1m; }}\n\
           }}\n\
         }}\n",
        files.display()
    );
    let (file, log) = (folder.join("nginx.conf"), folder.join("log"));
    // As root, the workers would be another user, who may not come by here.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    write(&file, format!("{user}{config}"))?;
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(&file);
    // Debian keeps it where an ordinary user's PATH does not look.
    if let Some(path) = std::env::var_os("PATH") {
        let mut path = path;
        path.push(":/usr/sbin:/sbin");
        command.env("PATH", path);
    }
    log_to(&mut command, &log)?;
    let mut process = Process::start(&mut command)?;
    await_start(&mut process, "nginx", &log, || listens(address))?;
    Ok(Started { address, authorization: None, process })
}
