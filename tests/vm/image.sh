#!/bin/bash
# Makes the guest: disk, kernel and first file system, once for each state of this recipe.
#
#   tests/vm/image.sh DIR     prints the folder below DIR that holds root.img, vmlinuz and initrd
#
# Installs what it and tests/vm/run need when it is missing. A first build takes about a minute.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
suite=trixie

# PROGRAM:PACKAGE on the host, as in tests/tools.sh.
programs=(
    qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs
    xz:xz-utils zstd:zstd cpio:cpio depmod:kmod python3:python3
)

# In the guest. Kernel modules are loaded on demand; busybox serves the first file system and the power switch.
packages=(
    systemd-sysv udev kmod busybox-static linux-image-cloud-amd64
    docker-registry iproute2 nftables apparmor util-linux procps iputils-ping crun openssl gnupg ca-certificates
    # What file systems with project quotas are made with.
    e2fsprogs xfsprogs
    # For critest: the script that runs it, and what it loads its AppArmor profiles with.
    python3 sudo
    # The runtime that a node's start is compared with.
    containerd runc containernetworking-plugins iptables
)

# Parts of packages that nothing here calls.
trimmed=(
    path-exclude=/usr/bin/{containerd-stress,ctr,containerd-shim,containerd-shim-runc-v1}
    path-exclude=/usr/lib/cni/'*' path-include=/usr/lib/cni/{bridge,host-local,loopback,portmap}
)

# Units that cost seconds of an emulated boot and serve nobody here.
masked=(
    systemd-udev-trigger.service systemd-udev-settle.service systemd-hwdb-update.service ldconfig.service
    systemd-firstboot.service systemd-update-done.service systemd-journal-catalog-update.service
    systemd-journal-flush.service systemd-machine-id-commit.service systemd-random-seed.service
    systemd-timesyncd.service systemd-networkd.service systemd-pcrphase-sysinit.service systemd-tpm2-setup-early.service
    systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-ask-password-console.path
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
    systemd-tmpfiles-clean.timer docker-registry.service nftables.service apparmor.service getty.target
)

main() {
    if [ $# != 1 ]; then
        echo "usage: tests/vm/image.sh DIR" >&2
        exit 2
    fi
    if [ "$(uname -m)" != x86_64 ]; then
        echo "vm: the guest is made for x86_64 only" >&2
        exit 1
    fi
    install_missing >&2
    # Not local: a trap looks at it.
    image=$1/$(cat "$here/image.sh" "$here"/guest/* | sha256sum | cut -c1-16)
    mkdir -p "$1"
    exec 9>"$1/lock"
    flock 9
    if [ ! -e "$image/done" ]; then
        echo "vm: building the guest (about a minute)" >&2
        # Also what an older recipe made.
        rm -rf "${1:?}"/????????????????
        mkdir "$image"
        trap 'clean_up "$image"' EXIT
        build "$image" >"$image/log" 2>&1
    fi
    echo "$image"
}

install_missing() {
    local missing=() entry
    for entry in "${programs[@]}"; do
        command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
    done
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
    # Up to qemu 7 it came with qemu; since then it is a package of its own.
    [ -x /usr/libexec/virtiofsd ] || [ -x /usr/lib/qemu/virtiofsd ] || missing+=(virtiofsd)
    [ ${#missing[@]} != 0 ] || return 0
    command -v apt-get >/dev/null || { echo "vm: install by hand: ${missing[*]}"; exit 1; }
    apt-get -qq update
    if [[ " ${missing[*]} " = *" virtiofsd "* ]] && ! apt-cache show virtiofsd >/dev/null 2>&1; then
        missing=("${missing[@]/#virtiofsd/qemu-system-common}")
    fi
    echo "vm: installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}

build() {
    local image=$1 scratch=$1/scratch tree=$1/scratch/tree
    mkdir "$scratch"
    # INITRD=No: the first file system is made here, fifty times smaller.
    INITRD=No mmdebstrap --mode=root --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        "${trimmed[@]/#/--dpkgopt=}" \
        "$suite" "$tree"
    furnish "$tree"
    cp "$tree"/boot/vmlinuz-* "$image/vmlinuz"
    first_files "$tree" "$scratch/first"
    (cd "$scratch/first" && find . | cpio --quiet -o -H newc | gzip) >"$image/initrd"
    # Without a journal: a run works on a copy that is thrown away.
    mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$tree" "$image/root.img" 12G
    touch "$image/done"
}

clean_up() {
    rm -rf "$1/scratch"
    [ -e "$1/done" ] || tail -n 20 "$1/log" >&2
}

furnish() {
    local tree=$1 unit
    # A hundred profiles would be compiled at each boot; what others include stays, and the kernel's side.
    find "$tree/etc/apparmor.d" -maxdepth 1 -type f -delete
    rm -rf "$tree"/boot/initrd* "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt
    for unit in "${masked[@]}"; do
        ln -sf /dev/null "$tree/etc/systemd/system/$unit"
    done
    install -m 644 "$here/guest/vm.target" "$here/guest/vm-run.service" "$tree/etc/systemd/system/"
    install -m 755 "$here/guest/vm-run" "$tree/usr/local/sbin/vm-run"
    mkdir -p "$tree/etc/systemd/journald.conf.d"
    printf '[Journal]\nStorage=volatile\nForwardToConsole=no\n' >"$tree/etc/systemd/journald.conf.d/vm.conf"
    echo vm >"$tree/etc/hostname"
    printf '127.0.0.1 localhost vm\n::1 localhost\n' >"$tree/etc/hosts"
    : >"$tree/etc/fstab"
    echo uninitialized >"$tree/etc/machine-id"
}

# Only virtio_blk stands between the kernel and the disk: ext4 and virtio_pci are built in.
first_files() {
    local tree=$1 first=$2 module
    mkdir -p "$first"/{dev,root}
    cp "$tree/bin/busybox" "$first/busybox"
    module=$(find "$tree"/lib/modules/ -name 'virtio_blk.ko*')
    case $module in
    *.xz) xz -dc "$module" ;;
    *.zst) zstd -qdc "$module" ;;
    *) cat "$module" ;;
    esac >"$first/virtio_blk.ko"
    install -m 755 "$here/guest/init" "$first/init"
}

main "$@"
