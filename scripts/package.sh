#!/usr/bin/env bash
# Makes what people install, in build/packages:
#   scripts/package.sh deb       nostos_VERSION_amd64.deb, for Debian 12
#   scripts/package.sh tarball   nostos-VERSION-linux-x86_64.tar.xz: the program with its libraries; needs glibc 2.36 alone
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Of the system's own, which a program must not bring along, and of CUDA and its driver.
SYSTEM_LIBRARIES='/(ld-linux-x86-64|libc|libm|libdl|librt|libpthread|libresolv|libcuda|libcudart|libcudnn.*|libcublas.*|libnccl)\.so'

make_deb() {
  install_packages "${PACKAGES[@]}" dpkg-dev gzip
  CONFIGURE_FLAGS=(-B build/deb -DNOSTOS_DEBIAN=ON -DNOSTOS_TESTS=OFF -DCMAKE_INSTALL_PREFIX=/usr)
  configure_and_build
  # The package is of what was built: cpack installs it into a folder of its own.
  (cd build/deb && umask 022 && cpack -G DEB -B "$OLDPWD/build/packages" >&2)
  rm -rf build/packages/_CPack_Packages
  ls build/packages/nostos_*.deb
}

make_tarball() {
  install_packages "${PACKAGES[@]}" patchelf xz-utils
  # Without MPI, whose plugins stand in the system's folders: ranks are threads.
  CONFIGURE_FLAGS=(-B build/tarball -DNOSTOS_MPI=OFF -DNOSTOS_TESTS=OFF)
  configure_and_build
  local version name stage
  version=$(build/tarball/bin/nostos --version | awk 'NR == 1 {print $2}')
  name=nostos-$version-linux-x86_64
  stage=build/packages/$name
  rm -rf "$stage"
  cmake --install build/tarball --prefix "$stage" --strip >&2
  cp LICENSE "$stage"
  mkdir -p "$stage/lib/nostos"
  ldd "$stage/bin/nostos" | awk '$3 ~ /^\// {print $3}' | grep -vE "$SYSTEM_LIBRARIES" | xargs -I{} cp -L {} "$stage/lib/nostos"
  # The old kind of search path counts for the libraries of libraries, too.
  patchelf --force-rpath --set-rpath "\$ORIGIN/../lib/nostos" "$stage/bin/nostos"
  tar -C build/packages --owner=0 --group=0 -cf - "$name" | xz -T0 -6 >"$stage.tar.xz"
  rm -rf "$stage"
  echo "$stage.tar.xz"
}

# configure_and_build: the program, its manual and completions, in the folder that CONFIGURE_FLAGS name.
configure_and_build() {
  mkdir -p build/packages
  if command -v ccache >/dev/null; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
  fi
  cmake --preset cpu "${CONFIGURE_FLAGS[@]}" >&2
  cmake --build "${CONFIGURE_FLAGS[1]}" --parallel "$(nproc)" --target nostos manual >&2
}

case "${1-}" in
  deb) make_deb ;;
  tarball) make_tarball ;;
  *)
    echo "usage: scripts/package.sh deb|tarball" >&2
    exit 2
    ;;
esac
