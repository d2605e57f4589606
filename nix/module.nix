# NixOS: viv for everyone, and /dev/kvm for who is named.
{
  config,
  lib,
  ...
}:

let
  cfg = config.programs.viv;
in
{
  options.programs.viv = {
    enable = lib.mkEnableOption "viv, microVMs for coding agents";

    package = lib.mkOption {
      type = lib.types.package;
      description = "The package that has viv.";
    };

    users = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      example = [ "alice" ];
      description = ''
        Users who may open /dev/kvm, and who get the subordinate ids that images are built with.
        Without /dev/kvm, sandboxes run under emulation, several times slower.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];

    # The file daemon and the builds of images each have namespaces of their own.
    security.unprivilegedUsernsClone = lib.mkDefault true;

    services.udev.extraRules = ''
      KERNEL=="kvm", GROUP="kvm", MODE="0660"
    '';

    users.groups.kvm = { };
    users.users = lib.genAttrs cfg.users (_: {
      extraGroups = [ "kvm" ];
      autoSubUidGidRange = lib.mkDefault true;
    });
  };
}
