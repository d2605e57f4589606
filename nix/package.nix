# viv with the static program that is the first process of every sandbox inside it, and the host's tools on its PATH.
{
  lib,
  rustPlatform,
  glibc,
  makeWrapper,
  cacert,
  qemu_kvm,
  mmdebstrap,
  apt,
  dpkg,
  erofs-utils,
  e2fsprogs,
  util-linux,
  passt,
}:

let
  # What `viv doctor` looks for, but for newuidmap: it is set-user-ID, which no package of nix can be.
  runtimeTools = [
    qemu_kvm
    mmdebstrap
    apt
    dpkg
    erofs-utils
    e2fsprogs
    util-linux
    passt
  ];
  manifest = lib.importTOML ../Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = "viv";
  version = manifest.workspace.package.version;
  src = lib.cleanSource ../.;
  cargoLock.lockFile = ../Cargo.lock;

  nativeBuildInputs = [ makeWrapper ];
  # The build script of viv builds the guest with +crt-static, which takes the C library's archive.
  buildInputs = [ glibc.static ];
  cargoBuildFlags = [
    "--package"
    "viv"
  ];
  # They start virtual machines.
  doCheck = false;

  postInstall = ''
    wrapProgram $out/bin/viv \
      --suffix PATH : ${lib.makeBinPath runtimeTools} \
      --set-default SSL_CERT_FILE ${cacert}/etc/ssl/certs/ca-bundle.crt
  '';

  passthru = { inherit runtimeTools; };

  meta = {
    description = "A computer of its own for a coding agent";
    license = lib.licenses.asl20;
    mainProgram = "viv";
    platforms = [ "x86_64-linux" ];
  };
}
