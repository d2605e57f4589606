{
  description = "Vivarium: a computer of its own for a coding agent";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      # The only machine that viv runs on.
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};
    in
    {
      packages.${system} = {
        default = self.packages.${system}.viv;
        viv = pkgs.callPackage ./nix/package.nix { };
      };

      apps.${system}.default = {
        type = "app";
        program = "${self.packages.${system}.viv}/bin/viv";
        meta.description = "A computer of its own for a coding agent";
      };

      devShells.${system}.default = pkgs.mkShell {
        inputsFrom = [ self.packages.${system}.viv ];
        packages = [
          pkgs.cargo-deny
          pkgs.cargo-nextest
          pkgs.clippy
          pkgs.rust-analyzer
          pkgs.rustfmt
        ]
        ++ self.packages.${system}.viv.runtimeTools;
      };

      nixosModules.default =
        { lib, pkgs, ... }:
        {
          imports = [ ./nix/module.nix ];
          programs.viv.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.viv;
        };
    };
}
