# Written by viv. A session over ssh begins as a program of `viv exec` does: the same environment, the same place.
# sshd runs this for every session (ForceCommand); what the client asked for is in SSH_ORIGINAL_COMMAND.
. /run/viv/ssh/environment

# A terminal that is not known inside would make programs refuse theirs.
if [ -n "${TERM-}" ]; then
    known=
    for terms in "$HOME/.terminfo" /etc/terminfo /lib/terminfo /usr/lib/terminfo /usr/share/terminfo; do
        [ ! -e "$terms/${TERM%"${TERM#?}"}/$TERM" ] || known=yes
    done
    [ -n "$known" ] || TERM=xterm-256color
fi

# The home is where sshd has put us.
cd -- "$VIV_SSH_DIRECTORY" || :
asked=${SSH_ORIGINAL_COMMAND-}
unset VIV_SSH_DIRECTORY SSH_ORIGINAL_COMMAND MAIL OLDPWD

case $asked in
'')
    exec "$SHELL" -l
    ;;
internal-sftp)
    for server in /usr/lib/openssh /usr/lib/ssh /usr/lib /usr/libexec/openssh /usr/libexec; do
        [ ! -x "$server/sftp-server" ] || exec "$server/sftp-server"
    done
    echo 'there is no sftp-server in this image: install openssh-sftp-server, or use scp -O' >&2
    exit 127
    ;;
*)
    exec "$SHELL" -c "$asked"
    ;;
esac
