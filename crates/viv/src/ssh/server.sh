# Run as root: puts what one ssh server needs into memory, and becomes it.
umask 022
server=$(PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v sshd) || exit 127
case $server in
/*) ;;
*) exit 127 ;;
esac
cd /
# The second is where sshd wants to be locked up before it knows who is there.
mkdir -p /run/viv/ssh /run/sshd || exit
cd /run/viv/ssh || exit

# Several may come at once: each file is there as a whole, or not at all.
put() {
    printf '%s\n' "$2" >".$1.$$" && mv -f ".$1.$$" "$1" || exit
}
put sshd_config "$VIV_SSH_CONFIG"
put authorized_keys "$VIV_SSH_AUTHORIZED_KEY"
put session "$VIV_SSH_SESSION"

umask 077
put host_key "$VIV_SSH_HOST_KEY"
# What every program inside has in its environment; what is root's own is left out.
(
    case $PATH in
    "$HOME/.local/bin:"*) below_home=yes ;;
    *) below_home= ;;
    esac
    PATH=${PATH#"$HOME/.local/bin:"}
    unset HOME LOGNAME USER SHELL TERM PWD OLDPWD SHLVL
    unset VIV_SSH_CONFIG VIV_SSH_AUTHORIZED_KEY VIV_SSH_SESSION VIV_SSH_HOST_KEY VIV_SSH_USER
    export -p
    # As it is meant where it is read.
    # shellcheck disable=SC2016
    [ -z "$below_home" ] || printf '%s\n' 'PATH=$HOME/.local/bin:$PATH'
) >".environment.$$" || exit
chown "$VIV_SSH_USER" ".environment.$$" || exit
mv -f ".environment.$$" environment || exit

unset VIV_SSH_CONFIG VIV_SSH_AUTHORIZED_KEY VIV_SSH_SESSION VIV_SSH_HOST_KEY VIV_SSH_USER
cd /
# Sessions have what sshd has.
umask 022
# The level counts from the first line on, before the configuration is read; at ERROR it tells of its own children.
exec "$server" -i -e -o LogLevel=FATAL -f /run/viv/ssh/sshd_config
